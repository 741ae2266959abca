// What a page looks like, measured where it is drawn: words that lie on words, words that are hard to read, a page wider than its window.
(() => {
  const visible = (element) => {
    for (let e = element; e; e = e.parentElement) {
      const style = getComputedStyle(e);
      if (style.display === "none" || style.visibility === "hidden" || Number(style.opacity) < 0.3 || e.closest("details:not([open]) > :not(summary)")) return false;
    }
    return true;
  };
  const colour = (text) => {
    const canvas = colour.canvas ??= Object.assign(document.createElement("canvas"), { width: 1, height: 1 }).getContext("2d", { willReadFrequently: true });
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = text;
    canvas.fillRect(0, 0, 1, 1);
    const [r, g, b, a] = canvas.getImageData(0, 0, 1, 1).data;
    return { rgb: [r, g, b], alpha: a / 255 };
  };
  const luminance = ([r, g, b]) => {
    const [x, y, z] = [r, g, b].map((v) => ((v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
    return 0.2126 * x + 0.7152 * y + 0.0722 * z;
  };
  const contrast = (a, b) => {
    const [low, high] = [luminance(a), luminance(b)].sort((x, y) => x - y);
    return (high + 0.05) / (low + 0.05);
  };
  // What lies behind a place of an element: the colours below it, down to the first that hides the rest.
  const behind = (element, x, y) => {
    const layers = [];
    for (const e of document.elementsFromPoint(x, y)) {
      const style = getComputedStyle(e);
      if (e.tagName === "IMG" || e.tagName === "image") return null;
      const shape = e instanceof SVGElement && !["svg", "g", "text", "tspan"].includes(e.tagName);
      const found = colour(shape ? (style.fill === "none" ? "transparent" : style.fill) : e instanceof SVGElement && e.tagName !== "svg" ? "transparent" : style.backgroundColor);
      if (shape) found.alpha *= Number(style.opacity) * Number(style.fillOpacity);
      if (e !== element || !shape) layers.push(found);
      if (found.alpha > 0.99) break;
    }
    let rgb = [255, 255, 255];
    for (const layer of layers.reverse()) rgb = rgb.map((v, i) => v * (1 - layer.alpha) + layer.rgb[i] * layer.alpha);
    return rgb;
  };
  const words = [];
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const node = walk.currentNode, element = node.parentElement;
    if (!node.data.trim() || ["SCRIPT", "STYLE", "TITLE", "NOSCRIPT"].includes(element.tagName) || !visible(element)) continue;
    const range = document.createRange();
    range.selectNodeContents(node);
    for (const box of range.getClientRects()) if (box.width > 1 && box.height > 1) words.push({ text: node.data.trim().slice(0, 40), element, box });
  }
  const found = { width: innerWidth, dark: matchMedia("(prefers-color-scheme: dark)").matches, words: words.length, wide: 0, overlaps: [], faint: [] };
  found.wide = document.scrollingElement.scrollWidth - innerWidth;
  words.sort((a, b) => a.box.top - b.box.top);
  for (let i = 0; i < words.length; i++)
    for (let j = i + 1; j < words.length && words[j].box.top < words[i].box.bottom; j++) {
      const [a, b] = [words[i], words[j]];
      if (a.element === b.element || a.element.closest("math, nav, header, aside, .sidebar-drawer") || b.element.closest("math, nav, header, aside, .sidebar-drawer")) continue;
      const across = Math.min(a.box.right, b.box.right) - Math.max(a.box.left, b.box.left);
      const down = Math.min(a.box.bottom, b.box.bottom) - Math.max(a.box.top, b.box.top);
      if (across > 2 && down > 0.35 * Math.min(a.box.height, b.box.height)) found.overlaps.push(`${a.text} / ${b.text}`);
    }
  for (const { text, element, box } of words) {
    const [x, y] = [box.left + box.width / 2, box.top + box.height / 2];
    if (x < 0 || x >= innerWidth || y < 0 || y >= innerHeight || !document.elementsFromPoint(x, y).includes(element)) continue;
    const style = getComputedStyle(element), ground = behind(element, x, y);
    if (ground === null) continue;
    const ink = colour(element instanceof SVGElement ? style.fill : style.color);
    const seen = ink.rgb.map((v, i) => v * ink.alpha + ground[i] * (1 - ink.alpha));
    const ratio = contrast(seen, ground);
    if (ratio < 3) found.faint.push(`${text} ${ratio.toFixed(1)}`);
  }
  return found;
})();
