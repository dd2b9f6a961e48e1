// Curves of several runs over each other, told apart by colour and by dashes.
const SVG = 'http://www.w3.org/2000/svg'
const WIDTH = 860, HEIGHT = 380, LEFT = 62, RIGHT = 14, TOP = 12, BOTTOM = 46
const COLOURS = 6
const DASHES = ['', '7 4', '2 3', '10 3 2 3', '16 4', '5 2 1 2 1 2']
const FIRST_DRAWN = 6
const chart = byId('curves-chart')
let drawn = []
let scale = null
let reading = null

const svg = (tag, attributes, text = '') => {
  const element = document.createElementNS(SVG, tag)
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value)
  element.textContent = text
  return element
}
const styleOf = (index) => ({ color: `var(--c${index % COLOURS})`, dash: DASHES[Math.floor(index / COLOURS) % DASHES.length] })
// A piece of a run's line, for the legend.
const swatchOf = ({ color, dash }) => {
  const swatch = svg('svg', { class: 'swatch', viewBox: '0 0 36 12', 'aria-hidden': 'true' })
  swatch.append(svg('line', { x1: 0, x2: 36, y1: 6, y2: 6, stroke: color, 'stroke-dasharray': dash }))
  return swatch
}

// Round numbers that cover low to high in about `count` steps.
const ticks = (low, high, count) => {
  const rough = (high - low || Math.abs(high) || 1) / count
  const power = 10 ** Math.floor(Math.log10(rough))
  const step = [1, 2, 5, 10].map((times) => times * power).find((size) => size >= rough * 0.999)
  const first = Math.floor(low / step + 1e-9)
  const last = Math.ceil(high / step - 1e-9)
  return Array.from({ length: Math.max(2, last - first + 1) }, (_, i) => Number(((first + i) * step).toPrecision(12)))
}
const spell = (value) => (Math.abs(value) >= 1e-3 || value === 0 ? value.toLocaleString('en', { maximumSignificantDigits: 4 }) : value.toExponential(1))

// A mean over a window of a twentieth of the curve: the loss of single steps jumps too much to be compared.
const smooth = (values) => {
  const reach = Math.floor(values.length / 40)
  return values.map((_, i) => {
    const near = values.slice(Math.max(0, i - reach), i + reach + 1).filter((value) => value !== null)
    return values[i] === null ? null : near.reduce((sum, value) => sum + value, 0) / near.length
  })
}

// Places of a line that have a number, in pieces: where the loss is none, as after it diverged, the line breaks.
const piecesOf = ({ x, y }) => {
  const pieces = [[]]
  x.forEach((value, i) => {
    if (value !== null && y[i] !== null) pieces[pieces.length - 1].push(i)
    else if (pieces[pieces.length - 1].length) pieces.push([])
  })
  return pieces.filter((piece) => piece.length)
}

const lineOf = (index, what, by) => {
  const [part, column] = what.split('.')
  const curve = block(runs[index].curves)?.[part]
  if (!curve?.[column]?.length || !curve[by]) return null
  const line = { index, x: curve[by], y: what === 'train.loss' ? smooth(curve[column]) : curve[column], ...styleOf(index) }
  const pieces = piecesOf(line)
  return pieces.length ? { ...line, pieces } : null
}

const drawCurves = () => {
  const what = byId('curves-what').value, by = byId('curves-by').value
  const chosen = original.filter((row) => row.querySelector('.draw input').checked).map((row) => Number(row.dataset.run))
  drawn = chosen.map((index) => lineOf(index, what, by)).filter(Boolean)
  for (const row of original) {
    row.querySelector('.key').replaceChildren(...(row.querySelector('.draw input').checked ? [swatchOf(styleOf(Number(row.dataset.run)))] : []))
  }
  reading = scale = null
  chart.replaceChildren()
  byId('curves-reading').replaceChildren()
  const name = byId('curves-what').selectedOptions[0].textContent
  const without = chosen.length - drawn.length
  const repeated = drawn.length - new Set(drawn.map(({ color, dash }) => color + dash)).size
  byId('curves-status').textContent = drawn.length
    ? `${name[0].toUpperCase()}${name.slice(1)} of ${counted(drawn.length, 'run')}` + (without ? `; ${without} chosen without this curve` : '') + (repeated ? `; there are ${COLOURS * DASHES.length} styles of line, so ${repeated} look like another: draw fewer to tell them apart` : '')
    : 'No run with such a curve is chosen; tick a box in the table.'
  if (!drawn.length) return
  const [xs, ys] = ['x', 'y'].map((axis) => drawn.flatMap((line) => line.pieces.flat().map((i) => line[axis][i])))
  const across = ticks(0, xs.reduce((a, b) => Math.max(a, b)), 8), up = ticks(ys.reduce((a, b) => Math.min(a, b)), ys.reduce((a, b) => Math.max(a, b)), 6)
  const right = across[across.length - 1]
  scale = {
    right,
    x: (value) => LEFT + (value / right) * (WIDTH - LEFT - RIGHT),
    y: (value) => HEIGHT - BOTTOM - ((value - up[0]) / (up[up.length - 1] - up[0])) * (HEIGHT - TOP - BOTTOM),
  }
  const picture = svg('svg', { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, 'aria-hidden': 'true' })
  for (const value of up) {
    picture.append(svg('line', { class: 'grid', x1: LEFT, x2: WIDTH - RIGHT, y1: scale.y(value), y2: scale.y(value) }))
    picture.append(svg('text', { x: LEFT - 8, y: scale.y(value) + 4, 'text-anchor': 'end' }, spell(value)))
  }
  for (const value of across) picture.append(svg('text', { x: scale.x(value), y: HEIGHT - BOTTOM + 20, 'text-anchor': 'middle' }, spell(value)))
  picture.append(svg('text', { x: (LEFT + WIDTH - RIGHT) / 2, y: HEIGHT - 6, 'text-anchor': 'middle' }, byId('curves-by').selectedOptions[0].textContent))
  for (const line of drawn) {
    const pieces = line.pieces.map((piece) => piece.map((i) => `${scale.x(line.x[i]).toFixed(1)},${scale.y(line.y[i]).toFixed(1)}`))
    const points = pieces.flat()
    const path = svg('path', { class: 'line', d: pieces.map((piece) => `M${piece.join('L')}${piece.length > 1 ? '' : 'h0'}`).join(''), stroke: line.color, 'stroke-dasharray': line.dash })
    path.append(svg('title', {}, runs[line.index].name))
    picture.append(path)
    if (points.length <= 20) for (const point of points) picture.append(svg('circle', { cx: point.split(',')[0], cy: point.split(',')[1], r: 3, fill: line.color }))
  }
  picture.append(svg('line', { class: 'cross', y1: TOP, y2: HEIGHT - BOTTOM, visibility: 'hidden' }))
  chart.append(picture)
  readCurves(null)
}

// The values of all drawn runs at the point nearest to `at`; without one, each run's last and lowest.
const readCurves = (at) => {
  reading = at
  const cross = chart.querySelector('.cross')
  cross.setAttribute('visibility', at === null ? 'hidden' : 'visible')
  if (at !== null) for (const end of ['x1', 'x2']) cross.setAttribute(end, scale.x(at))
  const what = byId('curves-what').value, by = byId('curves-by').value
  byId('curves-reading').replaceChildren(...(at === null ? [] : [make('span', {}, `${by} ${spell(at)}:`)]), ...drawn.map((line) => {
    const nearest = at === null ? line.x.length - 1 : line.x.reduce((best, x, i) => (x !== null && Math.abs(x - at) < Math.abs(line.x[best] - at) ? i : best), line.pieces[0][0])
    const lowest = at === null && what !== 'train.lr' ? `, lowest ${spell(Math.min(...line.pieces.flat().map((i) => line.y[i])))}` : ''
    const value = line.y[nearest] === null ? 'no finite number' : spell(line.y[nearest])
    return make('span', {}, swatchOf(line), `${runs[line.index].name} ${at === null ? 'ends at ' : ''}${value}${lowest}`)
  }))
}

chart.addEventListener('pointermove', (event) => {
  if (!scale) return
  const box = chart.firstElementChild.getBoundingClientRect()
  const x = ((event.clientX - box.left) / box.width) * WIDTH
  readCurves(Math.min(scale.right, Math.max(0, ((x - LEFT) / (WIDTH - LEFT - RIGHT)) * scale.right)))
})
chart.addEventListener('pointerleave', () => scale && readCurves(null))
chart.addEventListener('keydown', (event) => {
  if (!scale || !['ArrowLeft', 'ArrowRight', 'Escape'].includes(event.key)) return
  event.preventDefault()
  const places = [...new Set(drawn.flatMap((line) => line.x).filter((x) => x !== null))].sort((a, b) => a - b)
  if (event.key === 'Escape') readCurves(null)
  else if (event.key === 'ArrowRight') readCurves(places.find((x) => reading === null || x > reading) ?? places[places.length - 1])
  else readCurves(places.findLast((x) => reading === null || x < reading) ?? places[0])
})
for (const id of ['curves-what', 'curves-by']) byId(id).addEventListener('change', drawCurves)
body.addEventListener('change', ({ target }) => target.closest('.draw') && drawCurves())
const drawOnly = (wanted) => {
  for (const row of original) {
    const box = row.querySelector('.draw input')
    box.checked = !box.disabled && wanted(row)
  }
  drawCurves()
}
byId('curves-all').addEventListener('click', () => drawOnly((row) => !row.hidden))
byId('curves-none').addEventListener('click', () => drawOnly(() => false))
const drawable = original.filter((row) => !row.querySelector('.draw input').disabled).slice(0, FIRST_DRAWN)
drawOnly((row) => drawable.includes(row))
