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

byId('runs-find').addEventListener('input', ({ target }) => {
  const words = target.value.toLowerCase().split(/\s+/).filter(Boolean)
  for (const row of original) {
    const cells = [...row.cells].map((cell) => `${cell.dataset.label ?? ''} ${cell.textContent}`)
    const text = cells.join(' ').toLowerCase()
    row.hidden = !words.every((word) => text.includes(word))
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
