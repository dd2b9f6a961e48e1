// Answers of one run beside another's or its best baseline's: searched, filtered, sorted, a page at a time.
const PAGE = 20
const field = (name) => byId(`answers-${name}`)
const withAnswers = runs.map((run, index) => ({ run, index })).filter(({ run }) => run.records)
let items = []
let found = []
let page = 0

const chosen = () => runs[Number(field('run').value)]
// What is beside it: the same run's best baseline ("base") or the primary system of another run (its index).
const besideOf = () => (field('beside').value === 'base' ? { run: chosen(), system: chosen().against } : { run: runs[Number(field('beside').value)], system: runs[Number(field('beside').value)].primary })

const fillRun = () => {
  const run = chosen()
  const others = withAnswers.filter(({ run: other }) => other !== run)
  const kept = field('beside').value
  field('beside').replaceChildren(option('base', 'its best baseline'), ...others.map(({ run: other, index }) => option(index, other.name)))
  if ([...field('beside').options].some(({ value }) => value === kept)) field('beside').value = kept
  const judges = Object.keys(block(run.scores) ?? {})
  const judge = field('judge').value
  field('judge').replaceChildren(...judges.map((name) => option(name, name)))
  field('judge').value = judges.includes(judge) ? judge : judges.includes(run.judge) ? run.judge : judges[0] ?? ''
  const kinds = [...new Set(block(run.records).kind)].filter(Boolean).sort()
  const kind = field('kind').value
  field('kind').replaceChildren(option('', 'all kinds'), ...kinds.map((name) => option(name, name)))
  field('kind').value = kinds.includes(kind) ? kind : ''
  fillItems()
}

const systemOf = (run, system) => ({
  answers: block(run.systems[system]),
  scores: block(run.scores)?.[field('judge').value]?.[system] ?? [],
  right: block(run.scores)?.accuracy?.[system] ?? [],
  near: block(run.scores)?.similarity?.[system] ?? [],
})

// Whether the scores may be subtracted: always within a run, and between two runs if `instruct compare` allows it.
const comparable = () => {
  const run = chosen(), other = besideOf().run, judge = field('judge').value
  return run === other || run.groups[judge] === other.groups[judge]
}

const fillItems = () => {
  const run = chosen(), other = besideOf(), same = comparable()
  const records = block(run.records), mine = systemOf(run, run.primary), its = systemOf(other.run, other.system)
  const theirPlace = new Map(block(other.run.records).id.map((id, place) => [id, place]))
  items = records.id.map((id, place) => {
    const there = theirPlace.get(id)
    const score = mine.scores[place] ?? null, before = there === undefined ? null : its.scores[there] ?? null
    const item = {
      id, place, score, before, gain: !same || score === null || before === null ? null : score - before,
      kind: records.kind[place], instruction: records.instruction?.[place] ?? '', input: records.input?.[place] ?? '', output: records.output?.[place] ?? '',
      earlier: records.earlier?.[place] ?? [], earlierName: records.name_earlier?.[place] ?? '',
      text: mine.answers?.text[place], other: there === undefined ? undefined : its.answers?.text[there],
      right: mine.right[place] ?? null, near: mine.near[place] ?? null, otherRight: there === undefined ? null : its.right[there] ?? null,
      stop: mine.answers?.stop[place] ?? '', cut: mine.answers?.cut[place] ?? 0,
    }
    item.searched = [id, item.kind, ...item.earlier.flat(), item.instruction, item.input, item.output, item.text, item.other].join('\n').toLowerCase()
    return item
  })
  findAnswers()
}

const WHICH = {
  all: () => true,
  better: ({ gain }) => gain > 0,
  worse: ({ gain }) => gain !== null && gain < 0,
  same: ({ gain }) => gain === 0,
  right: ({ right }) => right === 100,
  wrong: ({ right }) => right === 0,
  form: ({ right, near }) => right === 0 && near >= 50,
  unscored: ({ score }) => score === null,
  unended: ({ stop }) => stop !== '' && stop !== 'end_of_text' && stop !== 'stop_string',
  cut: ({ cut }) => cut > 0,
}
// A missing number comes last in every order.
const byNumber = (key, sign) => (a, b) => (a[key] === null) - (b[key] === null) || sign * (a[key] - b[key]) || a.place - b.place
const ORDER = { order: (a, b) => a.place - b.place, low: byNumber('score', 1), high: byNumber('score', -1), gain: byNumber('gain', -1), loss: byNumber('gain', 1) }

const findAnswers = () => {
  const words = field('find').value.toLowerCase().split(/\s+/).filter(Boolean)
  const kind = field('kind').value, which = WHICH[field('which').value]
  const low = field('low').value, high = field('high').value
  const inRange = ({ score }) => (low === '' || (score !== null && score >= Number(low))) && (high === '' || (score !== null && score <= Number(high)))
  found = items.filter((item) => (!kind || item.kind === kind) && which(item) && inRange(item) && words.every((word) => item.searched.includes(word)))
  found.sort(ORDER[field('sort').value])
  page = 0
  showPage(words)
}

// Text with every occurrence of the words in a <mark>.
const marked = (text, words) => {
  const parts = []
  const lower = text.toLowerCase()
  // Lower case can be longer than its capital; then places do not agree, and nothing is marked.
  let from = 0
  while (words.length && lower.length === text.length) {
    const next = words.map((word) => ({ at: lower.indexOf(word, from), word })).filter(({ at }) => at >= 0).sort((a, b) => a.at - b.at)[0]
    if (!next) break
    parts.push(text.slice(from, next.at), make('mark', {}, text.slice(next.at, next.at + next.word.length)))
    from = next.at + next.word.length
  }
  return [...parts, text.slice(from)]
}

const truth = (right) => right === null ? '' : right ? ', right' : ', wrong'
const answerBox = (name, className, text, score, words, right = null) => {
  const said = (score === undefined ? '' : score === null ? ' · not scored' : ` · score ${score.toFixed(0)}`) + truth(right)
  const content = text === undefined ? ['(the text is not here)'] : text === '' ? ['(empty)'] : marked(text, words)
  return make('div', { className }, make('h3', {}, name, make('b', {}, said)), make('p', { className: 'text' }, ...content))
}

const articleOf = (item, words) => {
  const other = besideOf()
  const gain = item.gain === null ? '' : ` · ${item.gain >= 0 ? '+' : ''}${item.gain.toFixed(1)}`
  const facts = [item.id, item.kind, item.stop && `ended by ${item.stop.replaceAll('_', ' ')}`, item.cut && `${item.cut} tokens of the prompt cut`].filter(Boolean).join(' · ') + gain
  const about = make('article', {}, make('small', {}, ...marked(facts, words)))
  if (item.earlier.length) {
    const said = item.earlier.map(([who, text]) => make('p', { className: 'text soft' }, make('b', {}, who), '\n', ...marked(text, words)))
    about.append(make('details', {}, make('summary', { className: 'soft' }, item.earlierName), ...said))
  }
  if (item.instruction) about.append(make('p', { className: 'text' }, ...marked(item.instruction, words)))
  if (item.input) about.append(make('p', { className: 'text soft' }, ...marked(item.input, words)))
  const otherName = other.run === chosen() ? other.system : other.run.name
  const boxes = [answerBox(otherName, 's0', item.other, item.before, words, item.otherRight), answerBox(chosen().name, 's1', item.text, item.score, words, item.right)]
  if (item.output) boxes.unshift(answerBox('reference', '', item.output, undefined, words))
  about.append(make('div', { className: 'answers' }, ...boxes))
  return about
}

const showPage = (words = field('find').value.toLowerCase().split(/\s+/).filter(Boolean)) => {
  const pages = Math.max(1, Math.ceil(found.length / PAGE))
  const shown = found.slice(page * PAGE, (page + 1) * PAGE)
  field('list').replaceChildren(...shown.map((item) => articleOf(item, words)))
  const why = [...chosen().missing, ...(chosen().left_out ? ['its texts are left out to keep this page small'] : [])]
  if (!comparable()) why.push(`${besideOf().run.name} and ${chosen().name} are not comparable in ${field('judge').value}, so there are no gains (\`instruct compare\` says why)`)
  field('status').textContent = `${found.length.toLocaleString('en')} of ${counted(items.length, 'answer')}` + (why.length ? `; ${why.join('; ')}` : '')
  field('page').textContent = `page ${page + 1} of ${pages}`
  field('back').disabled = page === 0
  field('next').disabled = page >= pages - 1
}

const turnPage = (step) => {
  page += step
  showPage()
  field('status').scrollIntoView({ block: 'start' })
}
if (withAnswers.length) {
  field('run').replaceChildren(...withAnswers.map(({ run, index }) => option(index, run.name)))
  const first = withAnswers.find(({ index }) => index === against) ?? withAnswers[0]
  field('run').value = String(first.index)
  field('run').addEventListener('change', fillRun)
  for (const name of ['beside', 'judge']) field(name).addEventListener('change', fillItems)
  for (const name of ['kind', 'which', 'sort']) field(name).addEventListener('change', findAnswers)
  for (const name of ['find', 'low', 'high']) field(name).addEventListener('input', later(findAnswers))
  field('form').addEventListener('submit', (event) => event.preventDefault())
  field('form').addEventListener('reset', () => setTimeout(() => {
    field('run').value = String(first.index)
    fillRun()
  }))
  field('back').addEventListener('click', () => turnPage(-1))
  field('next').addEventListener('click', () => turnPage(1))
  body.addEventListener('click', ({ target }) => {
    if (!target.classList.contains('read')) return
    field('run').value = target.closest('tr').dataset.run
    fillRun()
    byId('answers').scrollIntoView()
    field('run').focus({ preventScroll: true })
  })
  fillRun()
} else {
  field('status').textContent = 'No run has scores of single records or answers in DVC’s cache; `dvc fetch` brings them.'
  field('form').hidden = true
  field('back').parentElement.hidden = true
}
