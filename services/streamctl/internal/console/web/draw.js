// How numbers are written, how elements are made, and the charts.

const grouped = new Intl.NumberFormat('en-US', {maximumFractionDigits: 0});

export function count(n) {
  return n == null || n < 0 ? '?' : grouped.format(n);
}

// brief is a large number in three digits.
export function brief(n) {
  if (n == null || n < 0) return '?';
  if (n < 10000) return grouped.format(n);
  for (const [unit, size] of [['bn', 1e9], ['M', 1e6], ['k', 1e3]]) {
    if (n >= size) return (n / size).toFixed(n / size < 100 ? 1 : 0).replace(/\.0$/, '') + ' ' + unit;
  }
  return String(n);
}

export function age(s) {
  if (s == null || s < 0) return '?';
  if (s === 0) return '–';
  if (s < 1) return '<1s';
  if (s < 59.5) return Math.round(s) + 's';
  if (s < 3600) return Math.floor(s / 60) + 'm' + pad(Math.floor(s % 60)) + 's';
  if (s < 172800) return Math.floor(s / 3600) + 'h' + pad(Math.floor(s / 60) % 60) + 'm';
  return Math.floor(s / 86400) + 'd' + pad(Math.floor(s / 3600) % 24) + 'h';
}

const pad = (n) => String(n).padStart(2, '0');

export function rate(n) {
  if (n == null || n < 0) return '?';
  if (n === 0) return '0/s';
  return (n < 10 ? n.toFixed(1) : brief(Math.round(n))) + '/s';
}

export function percent(share) {
  if (share > 0 && share < 0.01) return 'under 1 %';
  return Math.floor(share * 100) + ' %';
}

export function bytes(n) {
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];
  let i = 0;
  for (; n >= 1024 && i < units.length - 1; i++) n /= 1024;
  return (i === 0 ? n : n.toFixed(1)) + ' ' + units[i];
}

// el makes an element: attributes, then children, which are text or elements.
export function el(name, attrs, ...children) {
  const e = document.createElement(name);
  for (const [k, v] of Object.entries(attrs || {})) {
    if (v != null && v !== false) e.setAttribute(k, v === true ? '' : v);
  }
  e.append(...children.filter((c) => c != null));
  return e;
}

// text sets the text of an element if it is another one, so that what did not
// change is not read out again.
export function text(e, value) {
  if (e.textContent !== value) e.textContent = value;
}

// rows keeps one child of parent for each item, by key: what stays keeps its
// element, and with it the focus.
export function rows(parent, items, key, make, fill) {
  const old = new Map([...parent.children].map((c) => [c.dataset.key, c]));
  items.forEach((item, i) => {
    const k = key(item);
    let e = old.get(k);
    if (e) {
      old.delete(k);
    } else {
      e = make(item);
      e.dataset.key = k;
    }
    fill(e, item);
    if (parent.children[i] !== e) parent.insertBefore(e, parent.children[i] || null);
  });
  for (const e of old.values()) e.remove();
}

const svg = (name, attrs) => {
  const e = document.createElementNS('http://www.w3.org/2000/svg', name);
  for (const [k, v] of Object.entries(attrs)) e.setAttribute(k, v);
  return e;
};

const ceilings = [1, 5, 10, 30, 60, 300, 600, 1800, 3600, 10800, 21600, 43200, 86400, 259200, 604800];

// chart draws the points [time, seconds] of a span of seconds that ends now.
export function chart(figure, name, points, span, now) {
  const worst = points.reduce((m, p) => Math.max(m, p[1]), 0);
  const last = points.length ? points[points.length - 1][1] : -1;
  const top = ceilings.find((c) => c >= worst) || worst;
  const W = 300, H = 72;
  const x = (t) => W - Math.min((now - t) / span, 1) * W;
  const y = (v) => H - Math.max(v, 0) / top * (H - 4);
  if (!figure.firstChild) {
    const s = svg('svg', {viewBox: `0 0 ${W} ${H}`, preserveAspectRatio: 'none', role: 'img'});
    for (const part of [0.5, 1]) s.append(svg('line', {class: 'grid', x1: 0, x2: W, y1: H - part * (H - 4), y2: H - part * (H - 4)}));
    s.append(svg('path', {class: 'area'}), svg('path', {class: 'line'}));
    figure.append(
      el('figcaption', null, el('code', {class: 'name'}), el('span', {class: 'now'})),
      el('div', {class: 'plot'}, s, el('span', {class: 'top', 'aria-hidden': 'true'})),
      el('div', {class: 'axis', 'aria-hidden': 'true'}, el('span', {class: 'from'}), el('span', null, 'now')));
  }
  const plotted = points.filter((p) => now - p[0] <= span * 1.02);
  let d = '';
  plotted.forEach((p, i) => { d += (i ? 'L' : 'M') + x(p[0]).toFixed(1) + ' ' + y(p[1]).toFixed(1); });
  figure.querySelector('.line').setAttribute('d', d);
  figure.querySelector('.area').setAttribute('d', d ? `${d}L${x(plotted[plotted.length - 1][0]).toFixed(1)} ${H}L${x(plotted[0][0]).toFixed(1)} ${H}Z` : '');
  text(figure.querySelector('.name'), name);
  text(figure.querySelector('.now'), last < 0 ? 'no data' : last === 0 ? 'nothing waits' : age(last));
  text(figure.querySelector('.top'), age(top));
  text(figure.querySelector('.from'), span > 3600 ? '24 h ago' : '1 h ago');
  figure.querySelector('svg').setAttribute('aria-label', `${name}: now ${last > 0 ? age(last) : 'nothing waits'}, at most ${worst > 0 ? age(worst) : 'nothing'} in the last ${span > 3600 ? 'day' : 'hour'}`);
}
