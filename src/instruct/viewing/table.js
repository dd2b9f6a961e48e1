// The table of runs: sorting by every column, finding, and choosing columns.
const table = document.querySelector('table.runs')
const body = table.tBodies[0]
const original = [...body.rows]
const headers = new Map([...table.tHead.rows[0].cells].map((cell) => [cell.dataset.col, cell]))
let sorted = { key: '', direction: 'descending' }

const valueOf = (row, key) => {
  const cell = row.querySelector(`[data-col="${CSS.escape(key)}"]`)
  const text = cell?.dataset.value
  if (text === undefined) return null
  return headers.get(key).classList.contains('word') || key === 'name' ? text : Number(text)
}

// Missing values come last in both directions; equal ones keep the order of the list.
const compare = (a, b, sign) => {
  if (a === null || b === null) return (a === null) - (b === null)
  return sign * (typeof a === 'number' ? a - b : a.localeCompare(b, 'en', { numeric: true }))
}

const sortRuns = (key, direction) => {
  sorted = { key, direction }
  const sign = direction === 'ascending' ? 1 : -1
  const keyed = original.map((row, place) => ({ row, place, value: key ? valueOf(row, key) : place }))
  keyed.sort((a, b) => (key ? compare(a.value, b.value, sign) : sign * (b.place - a.place)) || a.place - b.place)
  body.append(...keyed.map((one) => one.row))
  for (const [name, cell] of headers) cell.setAttribute('aria-sort', name === key ? direction : 'none')
  byId('runs-sort').value = key
  tellRuns()
}

const tellRuns = () => {
  const shown = original.filter((row) => !row.hidden).length
  const label = headers.get(sorted.key)?.textContent.trim()
  byId('runs-status').textContent = `${shown} of ${counted(original.length, 'run')}` + (label ? `, sorted by ${label}, ${sorted.direction}` : '')
}

const opposite = (direction) => (direction === 'ascending' ? 'descending' : 'ascending')
for (const [key, cell] of headers) {
  cell.firstElementChild.addEventListener('click', () =>
    sortRuns(key, sorted.key === key ? opposite(sorted.direction) : cell.dataset.best))
}
byId('runs-sort').addEventListener('change', ({ target }) =>
  sortRuns(target.value, headers.get(target.value)?.dataset.best ?? 'descending'))
byId('runs-turn').addEventListener('click', () => sortRuns(sorted.key, opposite(sorted.direction)))

// What a search asks for: words that may stand anywhere in a row, and values that must stand in a column whose label
// holds a word: `epochs=3`, or `epochs 3` where the second is a number.
const labels = [...headers.values()].map((cell) => cell.textContent.trim().toLowerCase())
const isNumber = (text) => text !== '' && Number.isFinite(Number(text))
const asked = (text) => {
  const tokens = text.toLowerCase().replace(/\s*=\s*/g, '=').split(/\s+/).filter(Boolean)
  const wanted = []
  for (let i = 0; i < tokens.length; i++) {
    const [label, ...rest] = tokens[i].split('=')
    const value = rest.join('=')
    const next = tokens[i + 1] ?? ''
    if (label && value) wanted.push({ label, value })
    else if (isNumber(next) && !isNumber(label) && labels.some((name) => name.includes(label))) {
      wanted.push({ label, value: next })
      i += 1
    } else if (label || value) wanted.push({ word: label || value })
  }
  return wanted
}
// Numbers are equal as numbers, by their exact value or as they are shown; words are contained.
const hasValue = (cell, value) => {
  const shown = cell.querySelector('.name, td > span')?.textContent ?? ''
  if (!isNumber(value)) return shown.toLowerCase().includes(value)
  return [Number(cell.dataset.value ?? NaN), parseFloat(shown)].includes(Number(value))
}

byId('runs-find').addEventListener('input', ({ target }) => {
  const wanted = asked(target.value)
  for (const row of original) {
    const cells = [...row.cells].map((cell) => ({ cell, label: (cell.dataset.label ?? 'run').toLowerCase() }))
    const text = cells.map(({ cell, label }) => `${cell.dataset.label ? label : ''} ${cell.textContent}`).join(' ').toLowerCase()
    const holds = ({ word, label, value }) => (word ? text.includes(word) : cells.some((one) => one.label.includes(label) && hasValue(one.cell, value)))
    row.hidden = !wanted.every(holds)
  }
  tellRuns()
})

document.querySelector('.chooser').addEventListener('change', ({ target }) => {
  for (const cell of table.querySelectorAll(`[data-col="${CSS.escape(target.value)}"]`)) cell.hidden = !target.checked
})
document.addEventListener('keydown', ({ key }) => {
  const chooser = document.querySelector('.chooser[open]')
  if (key === 'Escape' && chooser) {
    chooser.open = false
    chooser.firstElementChild.focus()
  }
})
document.addEventListener('click', ({ target }) => {
  const chooser = document.querySelector('.chooser[open]')
  if (chooser && !chooser.contains(target)) chooser.open = false
})
tellRuns()
