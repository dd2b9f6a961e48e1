// What the tests ask of a page, put into it by the browser's protocol.
const all = (selector) => [...document.querySelectorAll(selector)]
const visibleRows = () => all('.runs tbody tr').filter((row) => !row.hidden).map((row) => row.querySelector('.name').textContent)
const placeOf = (name) => all('.runs tbody tr').find((row) => row.querySelector('.name').textContent === name).dataset.run
const curveLines = () =>
  all('#curves-chart path.line').map((path) => ({
    name: path.querySelector('title').textContent,
    points: path.getAttribute('d').split(/[ML]/).length - 1,
    pieces: path.getAttribute('d').split('M').length - 1,
    colour: path.getAttribute('stroke'),
    dash: path.getAttribute('stroke-dasharray'),
  }))
// The pieces of line in the legend under the chart and beside the runs' names, by run.
const legend = (selector) =>
  all(selector).map((swatch) => {
    const line = swatch.querySelector('line')
    return { colour: line.getAttribute('stroke'), dash: line.getAttribute('stroke-dasharray') }
  })
const linesOutside = () => {
  const inside = ({ x, y, width, height }) => x >= 60 && y >= 10 && x + width <= 848 && y + height <= 336
  return all('#curves-chart path.line').filter((path) => !inside(path.getBBox())).length
}
const choose = (id, value) => {
  document.getElementById(id).value = value
  document.getElementById(id).dispatchEvent(new Event('change', { bubbles: true }))
}
const clear = (id) => {
  document.getElementById(id).value = ''
  document.getElementById(id).focus()
}
const make = (tag, text) => Object.assign(document.createElement(tag), { textContent: text })
const pause = (milliseconds) => new Promise((done) => setTimeout(done, milliseconds))

// WCAG 2.2: relative luminance, and the contrast of a text with the first colour behind it.
const luminance = (colour) => {
  const linear = (value) => (value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4)
  const parts = colour.match(/[\d.]+/g).slice(0, 3).map((part) => linear(Number(part) / 255))
  return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]
}
const behind = (element) => {
  if (!element) return 'rgb(255, 255, 255)'
  const colour = getComputedStyle(element).backgroundColor
  return /, 0\)$|transparent/.test(colour) ? behind(element.parentElement) : colour
}
const contrast = (element) => {
  const pair = [luminance(getComputedStyle(element).color), luminance(behind(element))].sort((a, b) => b - a)
  return (pair[0] + 0.05) / (pair[1] + 0.05)
}
const weakTexts = (least) =>
  all('body *')
    .filter((element) => element.checkVisibility() && !element.closest('svg, :disabled'))
    .filter((element) => [...element.childNodes].some((node) => node.nodeType === Node.TEXT_NODE && node.data.trim()))
    .filter((element) => contrast(element) < least)
    .map((element) => `${element.tagName}.${element.className}: ${element.textContent.slice(0, 30)}`)

// Bars, dots and lines of a chart that can be seen: of some size, and 3:1 or more against what is behind (WCAG 2.2, 1.4.11).
const paintOf = (shape) => [getComputedStyle(shape).fill, getComputedStyle(shape).stroke].find((paint) => paint.startsWith('rgb') && !/^rgba.*, 0\)$/.test(paint))
const seen = (shape) => {
  const box = shape.getBoundingClientRect(), paint = paintOf(shape)
  const size = shape.closest('.bar') ? Math.min(box.width, box.height) : box.width + box.height
  if (!shape.checkVisibility() || size < 1 || !paint) return false
  const pair = [luminance(paint), luminance(behind(shape.closest('figure')))].sort((a, b) => b - a)
  return (pair[0] + 0.05) / (pair[1] + 0.05) >= 3
}
const marks = (selector) => all(`figure :is(${selector})`).map((mark) => [...mark.querySelectorAll('path, use')].find((shape) => !shape.closest('defs')) ?? mark)
const seenMarks = (selector) => marks(selector).filter(seen).length

const nameless = () =>
  all('input, select, button').filter((one) => !(one.labels?.length || one.ariaLabel || one.textContent.trim())).length
const repeatedIds = () => {
  const ids = all('main [id]').map((element) => element.id)
  return ids.length - new Set(ids).size
}
// Elements beyond the right edge of the window that no region of their own scrolls.
const overflowing = () =>
  all('body *')
    .filter((one) => one.checkVisibility() && !one.closest('.wide, svg svg') && one.getBoundingClientRect().right > innerWidth + 0.5)
    .map((one) => `${one.tagName}.${one.getAttribute('class')}`)
const seenRows = (table) => [...table.tBodies[0].rows].filter((row) => row.checkVisibility() && row.getBoundingClientRect().height > 1).length
const sideways = () => document.documentElement.scrollWidth - document.documentElement.clientWidth
