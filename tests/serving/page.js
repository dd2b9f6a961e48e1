// node page.js PAGE STEPS: runs the page's own script and then the steps, without a browser; prints what they return.
// There is as much of a DOM as the script needs, and a server of two models that notes what it is sent.
"use strict";
const fs = require("node:fs"), vm = require("node:vm");
const html = fs.readFileSync(process.argv[2], "utf8");

class Element {
  constructor(hidden, disabled, value) {
    Object.assign(this, { children: [], words: "", style: {}, checked: false, hidden, disabled, value });
  }
  get childNodes() { return this.children; }
  get textContent() { return this.words + this.children.map(one => one.textContent).join(""); }
  set textContent(words) { this.replaceChildren(); this.words = words; }
  append(...more) { this.children.push(...more); }
  replaceChildren(...all) { this.words = ""; this.children = all; }
  setAttribute() {}
  focus() {}
}
const byId = {};
for (const [tag, id] of html.matchAll(/<\w+[^>]*\bid="(\w+)"[^>]*>/g)) {
  byId[id] = new Element(/ hidden/.test(tag), / disabled/.test(tag), (/ value="([^"]*)"/.exec(tag) || ["", ""])[1]);
}

const server = {
  turns: true, sent: [], held: {}, refused: [],
  ended: () => ({ finish_reason: "stop" }),
  answer: body => body.model + " on " + (body.messages ? body.messages.at(-1).content : "a prompt"),
};
const told = {
  "/v1/models": { data: [{ id: "base" }, { id: "sft" }] },
  "/tokenize": { tokens: [1], prompt: "" },
  "/preferences": { file: "data/preferences.jsonl", lines: 1 },
  "/mine": { file: "data/mine.jsonl" },
};
async function fetch(path, { body: text }) {
  const body = text && JSON.parse(text);
  if (body) server.sent.push([path, body]);
  await server.held[path];
  const ok = !server.refused.includes(path);
  const pieces = body && [{ choices: [{ delta: { content: server.answer(body) }, text: server.answer(body), ...server.ended(body) }] }];
  const chunks = pieces && [...pieces.map(one => "data: " + JSON.stringify(one)), "data: [DONE]", ""].join("\n\n");
  return {
    ok, status: ok ? 200 : 400, body: { getReader: () => ({ read: async () => ({ value: new TextEncoder().encode(chunks) }) }) },
    json: async () => path === "/tokenizer_info" ? { logprobs: true, turns: server.turns, stop: [] } : told[path],
  };
}

// What a person can do; a round of the event loop lets every promise go on that waits for nothing else.
const settled = () => new Promise(resolve => setTimeout(resolve));
async function click(one) { if (!one.disabled && !one.hidden) one.onclick(); await settled(); }
async function asked(instruction, input = "") {
  Object.assign(byId.instruction, { value: instruction });
  Object.assign(byId.input, { value: input });
  byId.form.onsubmit({ preventDefault() {} });
  await settled();
}
function chats() {
  const said = server.sent.filter(([path, body]) => path === "/v1/chat/completions" && body.model === "sft");
  return said.map(([, body]) => body.messages.map(one => one.content));
}
const document = { getElementById: id => byId[id], createElement: () => new Element(false, false, "") };
const known = { document, fetch, crypto, TextDecoder, AbortController, Uint32Array, server, settled, click, asked, chats };
const script = /<script>([^]*)<\/script>/.exec(html)[1];
vm.runInNewContext(`${script}\n;(async () => { await settled(); ${process.argv[3]} })()`, known).then(
  found => console.log(JSON.stringify(found)),
);
