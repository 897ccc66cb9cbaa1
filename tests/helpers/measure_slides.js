// Writes what is wrong with a deck into its page, as JSON in the element `measured`.
window.addEventListener("load", () => {
  const style = document.createElement("style")
  style.textContent = "svg, section { content-visibility: visible !important; }"
  document.head.append(style)
  const problems = []
  const slides = [...document.querySelectorAll("section[id]")]
  const touches = (a, b) =>
    a.left < b.right - 1 && b.left < a.right - 1 &&
    a.top < b.bottom - 1 && b.top < a.bottom - 1
  slides.forEach((slide, index) => {
    const say = (text) => problems.push(`slide ${index + 1}: ${text}`)
    const box = slide.getBoundingClientRect()
    const scale = box.width / 1280
    if (slide.clientWidth !== 1280 || slide.clientHeight !== 720)
      say(`is ${slide.clientWidth} x ${slide.clientHeight}`)
    if (slide.scrollHeight > 720 || slide.scrollWidth > 1280)
      say(`needs ${slide.scrollWidth} x ${slide.scrollHeight}`)
    for (const element of slide.querySelectorAll("*")) {
      const rect = element.getBoundingClientRect()
      const name = `${element.tagName} "${element.textContent.trim().slice(0, 30)}"`
      if (
        rect.left < box.left - 1 || rect.right > box.right + 1 ||
        rect.top < box.top - 1 || rect.bottom > box.bottom + 1
      ) say(`${name} leaves the slide`)
      if (element.ownerSVGElement && element.tagName !== "g") {
        const frame = element.ownerSVGElement.getBoundingClientRect()
        if (
          rect.left < frame.left - 2 || rect.right > frame.right + 2 ||
          rect.top < frame.top - 2 || rect.bottom > frame.bottom + 2
        ) say(`${name} leaves its picture`)
      }
      const written = [...element.childNodes].some(
        (node) => node.nodeType === Node.TEXT_NODE && node.textContent.trim()
      )
      if (written) {
        const drawn = element.ownerSVGElement
        const shrunk = drawn ? element.getScreenCTM().a / scale : 1
        const size = parseFloat(getComputedStyle(element).fontSize) * shrunk
        if (size < 13.95) say(`${name} has a text of ${size.toFixed(1)} px`)
      }
    }
    for (const parent of [slide, ...slide.querySelectorAll(".cols, .cards")]) {
      const parts = [...parent.children].map((child) => child.getBoundingClientRect())
      parts.forEach((a, i) =>
        parts.slice(i + 1).forEach((b, j) => {
          if (touches(a, b)) say(`parts ${i + 1} and ${i + j + 2} overlap`)
        })
      )
    }
  })
  const pre = document.createElement("pre")
  pre.id = "measured"
  pre.textContent = JSON.stringify({
    slides: slides.length,
    width: innerWidth,
    problems,
    requests: performance.getEntriesByType("resource").map((entry) => entry.name),
  })
  document.body.append(pre)
})
