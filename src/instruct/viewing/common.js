// What the three parts share: elements, the data blocks (each parsed when first needed), and text that is only ever text.
const byId = (id) => document.getElementById(id)
const parsed = new Map()
const block = (name) => {
  if (!name) return null
  if (!parsed.has(name)) parsed.set(name, JSON.parse(byId(name).textContent))
  return parsed.get(name)
}
const { runs, against } = JSON.parse(byId('view-data').textContent)

// An element with properties and children; strings become text nodes, so no answer of a model is ever markup.
const make = (tag, properties = {}, ...children) => {
  const element = Object.assign(document.createElement(tag), properties)
  element.append(...children)
  return element
}
const option = (value, text) => make('option', { value, textContent: text })
const counted = (count, word) => `${count.toLocaleString('en')} ${word}${count === 1 ? '' : 's'}`
const later = (action, wait = 120) => {
  let timer
  return () => {
    clearTimeout(timer)
    timer = setTimeout(action, wait)
  }
}
