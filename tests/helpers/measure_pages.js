// Measures the pages in this page's frames: what is wider than its frame, which words of
// a picture are cut off at its edge, and what was requested. The result is JSON in the
// element #measured.
addEventListener("load", () => {
  const problems = []
  const requests = []
  const frames = [...document.querySelectorAll("iframe")]
  const scrolls = (element) =>
    element &&
    element.tagName !== "BODY" &&
    (["auto", "scroll", "hidden"].includes(getComputedStyle(element).overflowX) ||
      scrolls(element.parentElement))
  for (const frame of frames) {
    const name = `${frame.dataset.page} at ${frame.clientWidth}`
    const page = frame.contentDocument
    const wide = page.documentElement.scrollWidth
    if (wide > frame.clientWidth) problems.push(`${name} is ${wide} px wide`)
    for (const element of page.querySelectorAll(frame.dataset.parts)) {
      const box = element.getBoundingClientRect()
      if (box.width && box.right > frame.clientWidth + 1 && !scrolls(element)) {
        problems.push(`${name}: ${element.outerHTML.slice(0, 80)} ends at ${box.right}`)
        break
      }
    }
    for (const text of page.querySelectorAll("svg text")) {
      const box = text.getBoundingClientRect()
      const edge = text.ownerSVGElement.getBoundingClientRect()
      if (
        box.left < edge.left - 1 || box.right > edge.right + 1 ||
        box.top < edge.top - 1 || box.bottom > edge.bottom + 1
      ) problems.push(`${name}: "${text.textContent}" is cut off`)
    }
    for (const entry of frame.contentWindow.performance.getEntriesByType("resource"))
      if (!entry.name.startsWith("file:") && !entry.name.startsWith("data:"))
        requests.push(`${name}: ${entry.name}`)
  }
  const pre = document.createElement("pre")
  pre.id = "measured"
  pre.textContent = JSON.stringify({ frames: frames.length, problems, requests })
  document.body.replaceChildren(pre)
})
