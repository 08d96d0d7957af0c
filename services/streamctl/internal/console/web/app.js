// Follows the console and puts each view on the page.
import {el, text, count, brief, age, rate, bytes, percent, rows, chart} from './draw.js';
import {auth, unlock, showParked, setActions} from './parked.js';

const $ = (id) => document.getElementById(id);
const words = {healthy: ['●', 'Healthy'], behind: ['▲', 'Behind'], broken: ['■', 'Broken'], looking: ['○', 'Looking …']};
const roles = ['live', 'jobs', 'backfill', 'labels'];
let history = {streams: [], hour: [], day: []};
let view = null;
let heard = 0;

function verdict(v) {
  const [mark, word] = words[v.state] || words.looking;
  $('verdict').dataset.state = v.state;
  text($('mark'), mark);
  text($('state'), word);
  const why = v.state === 'behind' || v.state === 'broken' ? 'because ' + v.because : v.because[0].toUpperCase() + v.because.slice(1);
  text($('because'), why + '.');
  $('do').hidden = !v.do;
  text($('do-text'), v.do || '');
  $('also').hidden = !v.also.length;
  rows($('also'), v.also, (a) => a, () => el('li'), (e, a) => text(e, a));
  $('notes').hidden = !v.notes;
  text($('notes'), v.notes === 1 ? '1 warning of doctor, below, holds nothing up.' : `${v.notes} warnings of doctor, below, hold nothing up.`);
  document.title = `${mark} ${word} – sluice`;
  const icon = `/assets/${v.state in words && v.state !== 'looking' ? v.state : 'healthy'}.svg`;
  if ($('icon').getAttribute('href') !== icon) $('icon').setAttribute('href', icon);
}

// part returns the child of e with the class, made on first use.
function part(e, cls, name = 'p') {
  return e.querySelector('.' + cls) || e.appendChild(el(name, {class: cls}));
}

function source(role, v) {
  const stream = v.streams.find((s) => s.role === role);
  const list = v.sources.filter((s) => stream && s.stream === stream.name);
  const shown = list.slice(0, 3).map((s) => ({host: s.host, note: role === 'jobs' ? (s.done ? 'listed to the end' : 'being listed') : 'at ' + s.cursor}));
  if (list.length > 3) shown.push({host: `and ${list.length - 3} more`, note: ''});
  if (!list.length) shown.push({host: v.checked_at ? 'none yet' : '…', note: ''});
  rows($('src-' + role).querySelector('.hosts'), shown, (s) => s.host, () => el('li', null, el('span', {class: 'host'}), el('span', {class: 'quiet'})), (e, s) => {
    text(e.children[0], s.host);
    text(e.children[1], s.note);
  });
}

function streamNode(s) {
  const e = $('st-' + s.role);
  if (!e.firstChild) {
    e.append(el('h4', null, el('code')), el('p', {class: 'length'}, el('b'), el('span', {class: 'quiet'})),
      el('div', {class: 'meter', role: 'meter', 'aria-valuemin': '0'}, el('span', {class: 'fill'})),
      el('p', {class: 'gate'}), el('p', {class: 'wait quiet'}));
  }
  const share = s.mark > 0 ? s.length / s.mark : 0;
  e.dataset.gate = s.gate_closed ? 'closed' : 'open';
  text(e.querySelector('code'), s.name);
  text(e.querySelector('b'), count(s.length));
  text(e.querySelector('.length span'), ` of ${brief(s.mark)}`);
  const m = e.querySelector('.meter');
  m.setAttribute('aria-label', `fill of ${s.name}`);
  m.setAttribute('aria-valuemax', s.mark);
  m.setAttribute('aria-valuenow', Math.min(s.length, s.mark));
  m.setAttribute('aria-valuetext', `${percent(share)} of its mark`);
  e.querySelector('.fill').style.width = Math.min(share * 100, 100).toFixed(1) + '%';
  text(e.querySelector('.gate'), s.gate_closed ? `✕ gate closed for ${age(Math.max(s.gate_closed_seconds, 1))}` : `gate open · ${percent(share)}`);
  text(e.querySelector('.wait'), s.wait_seconds > 0 ? `oldest waits ${age(s.wait_seconds)}` : 'nothing waits');
}

function flow(id, perSecond, what) {
  const e = $(id);
  if (!e.firstChild) e.append(el('span', {class: 'rate'}), el('span', {class: 'line', 'aria-hidden': 'true'}), el('span', {class: 'sr'}));
  e.dataset.moving = perSecond > 0 ? 'yes' : 'no';
  text(e.querySelector('.rate'), rate(perSecond));
  text(e.querySelector('.sr'), ' ' + what);
}

function readersNode(kind, v) {
  const e = $('rd-' + kind);
  const list = v.readers.filter((r) => r.kind === kind);
  const by = (state) => list.filter((r) => r.state === state);
  const b = part(e, 'big');
  text(b, `${by('reading').length} reading`);
  const bad = [];
  if (by('stuck').length) bad.push(`✕ ${by('stuck').length} stuck`);
  if (by('abandoned').length) bad.push(`✕ ${by('abandoned').length} dead, with ${count(by('abandoned').reduce((n, r) => n + r.pending, 0))} in work`);
  if (!by('reading').length && !bad.length) bad.push('✕ none runs');
  e.dataset.state = bad.length ? 'bad' : 'good';
  text(part(e, 'bad'), bad.join(', '));
  text(part(e, 'held', 'p'), `${count(list.reduce((n, r) => n + r.pending, 0))} in work`);
}

const tableNames = [['record', 'records'], ['post', 'posts'], ['like', 'likes'], ['follow', 'follows'], ['actor', 'accounts']];

function tables(t) {
  const e = $('db');
  e.dataset.state = t.state === 'unreachable' ? 'bad' : 'good';
  text(part(e, 'big'), t.state === 'ok' ? `✓ ${t.version.split(' ')[0]}` : t.state === 'unreachable' ? '✕ cannot be reached' : '…');
  rows(part(e, 'rows', 'ul'), tableNames.filter(([n]) => t.rows && n in t.rows), ([n]) => n, () => el('li', null, el('span', {class: 'num'}), el('span', {class: 'quiet'})), (li, [n, label]) => {
    text(li.children[0], brief(t.rows[n]));
    text(li.children[1], ' ' + label);
  });
  text(part(e, 'held', 'p'), t.state !== 'ok' ? '' : t.waiting > 0 ? `${count(t.waiting)} changes wait in it` : 'nothing waits in it');
}

function road(v) {
  const by = Object.fromEntries(v.streams.map((s) => [s.role, s]));
  for (const role of ['live', 'jobs', 'labels']) source(role, v);
  for (const s of v.streams) streamNode(s);
  for (const role of roles) {
    const s = by[role];
    if (!s) continue;
    flow(`flow-${role}-in`, s.in_per_second, `come in to ${s.name}`);
    flow(`flow-${role}-out`, s.out_per_second, `are finished of ${s.name}`);
  }
  readersNode('backfiller', v);
  readersNode('indexer', v);
  const into = v.streams.filter((s) => s.role !== 'jobs').map((s) => s.out_per_second).filter((n) => n >= 0);
  flow('flow-db', into.length ? into.reduce((a, b) => a + b, 0) : -1, 'go into the tables');
  tables(v.tables);
  text($('redis'), `Redis ${v.redis.version} · ${bytes(v.redis.used_bytes)} of ${v.redis.max_bytes ? bytes(v.redis.max_bytes) : 'no limit'}`);
}

function cell(row, i, value) {
  text(row.cells[i], value);
}

function line(labels) {
  return el('tr', {role: 'row'}, ...labels.map(([label, cls], i) => (i === 0
    ? el('th', {scope: 'row', role: 'rowheader'})
    : el('td', {role: 'cell', class: cls, 'data-label': label}))));
}

const streamColumns = [['Stream'], ['Gate'], ['Not read', 'n'], ['In work', 'n'], ['Oldest', 'n'], ['In', 'n'], ['Out', 'n'], ['Empty in', 'n'], ['Floor held by']];

// emptyIn says how long a stream takes to be read to its end.
function emptyIn(s) {
  if (s.lag <= 0 && s.wait_seconds < 5) return '–';
  if (s.empty_in_seconds > 0) return age(s.empty_in_seconds);
  if (s.in_per_second < 0) return '?';
  return s.in_per_second > s.out_per_second * 1.05 ? 'it grows' : 'steady';
}

function streams(v) {
  rows($('streams').tBodies[0], v.streams, (s) => s.name, () => line(streamColumns), (r, s) => {
    cell(r, 0, s.name);
    cell(r, 1, s.gate_closed ? '✕ closed' : 'open');
    r.cells[1].className = s.gate_closed ? 'bad' : '';
    cell(r, 2, count(s.lag < 0 && s.length === 0 ? 0 : s.lag));
    cell(r, 3, count(s.pending));
    cell(r, 4, age(s.wait_seconds));
    cell(r, 5, rate(s.in_per_second));
    cell(r, 6, rate(s.out_per_second));
    cell(r, 7, emptyIn(s));
    const who = s.holder_consumer ? `${s.holder_consumer} (${s.holder_group})` : s.holder_group && s.wait_seconds > 0 ? `${s.holder_group}, not read yet` : 'nobody';
    cell(r, 8, who + (s.unknown_groups ? ` · ✕ unknown group ${s.unknown_groups.join(', ')}` : ''));
  });
}

const states = {reading: ['✓ reading', ''], stuck: ['✕ stuck', 'bad'], abandoned: ['✕ dead, holds entries', 'bad'], gone: ['○ gone', 'quiet']};
const readerColumns = [['Name'], ['State'], ['Kind'], ['In work', 'n'], ['Last read', 'n'], ['Streams']];

function readers(v) {
  $('readers').hidden = !v.readers.length;
  $('no-readers').hidden = v.readers.length > 0;
  rows($('readers').tBodies[0], v.readers, (r) => r.name, () => line(readerColumns), (e, r) => {
    const [word, cls] = states[r.state] || [r.state, ''];
    cell(e, 0, r.name);
    cell(e, 1, word);
    e.cells[1].className = cls;
    cell(e, 2, r.kind);
    cell(e, 3, count(r.pending));
    cell(e, 4, r.asked_seconds < 0 ? '–' : r.asked_seconds < 2 ? 'just now' : age(r.asked_seconds) + ' ago');
    cell(e, 5, r.streams.join(', '));
  });
}

function backfill(b) {
  const e = $('backfill');
  if (!b || (b.total === 0 && !b.paused)) {
    if (!e.querySelector('.none')) e.replaceChildren(el('p', {class: 'quiet none'}, 'No repository was listed or asked for yet.'));
    return;
  }
  if (!e.querySelector('.meter')) {
    e.replaceChildren(el('p', {class: 'length'}, el('b'), el('span', {class: 'quiet'})),
      el('div', {class: 'meter plain', role: 'meter', 'aria-label': 'repositories done', 'aria-valuemin': '0'}, el('span', {class: 'fill'})),
      el('p', {class: 'estimate'}), el('dl', {class: 'facts'}));
  }
  const share = b.total > 0 ? b.done / b.total : 0;
  const percent = Math.floor(share * 1000) / 10;
  text(e.querySelector('b'), `${percent} %`);
  text(e.querySelector('.length span'), ` – ${count(b.done)} of ${count(b.total)} repositories`);
  const m = e.querySelector('.meter');
  m.setAttribute('aria-valuemax', b.total);
  m.setAttribute('aria-valuenow', b.done);
  e.querySelector('.fill').style.width = percent + '%';
  let estimate = 'done';
  if (b.paused) estimate = '‖ paused: streamctl backfill resume';
  else if (b.done < b.total) estimate = b.left_seconds > 0 ? `about ${age(b.left_seconds)} left at ${rate(b.rate_per_second)}` : b.rate_per_second === 0 ? 'no repository was finished in the last minutes' : 'measuring how fast it goes …';
  text(e.querySelector('.estimate'), estimate);
  const facts = [['waiting', b.jobs_left], ['put off', b.delayed], ['gone', b.states.gone || 0], ['failed', b.failed], ['records', b.totals.records || 0]];
  rows(e.querySelector('.facts'), facts, (f) => f[0], () => el('div', null, el('dt'), el('dd')), (d, f) => {
    text(d.children[0], f[0]);
    text(d.children[1], count(f[1]));
  });
  text(part(e, 'listing', 'p'), b.listed ? 'All hosts are listed to the end.' : 'The listing goes on: the total still grows.');
  e.querySelector('.listing').classList.add('quiet');
}

function findings(v) {
  const bad = v.findings.filter((f) => f.level !== 'ok');
  const fine = v.findings.filter((f) => f.level === 'ok');
  const levels = {bad: '■ bad', warn: '▲ warning', info: '○ note', ok: '✓ fine'};
  const make = () => el('li', null, el('p', {class: 'what'}, el('span', {class: 'level'}), el('b'), el('span')), el('p', {class: 'means quiet'}), el('p', {class: 'do'}, el('span', {class: 'label'}, 'Do'), ' ', el('span')));
  const fill = (e, f) => {
    e.dataset.level = f.level;
    text(e.querySelector('.level'), levels[f.level]);
    text(e.querySelector('b'), ` ${f.check}: `);
    text(e.querySelector('.what').lastChild, f.what);
    text(e.querySelector('.means'), f.means ? 'Means: ' + f.means : '');
    e.querySelector('.do').hidden = !f.do;
    text(e.querySelector('.do').lastChild, f.do || '');
  };
  const key = (f) => f.check + ' ' + f.what.replace(/[0-9,.]+/g, '#');
  rows($('findings'), bad, key, make, fill);
  $('fine').hidden = !fine.length;
  text($('fine').querySelector('summary'), `${fine.length} checks are fine`);
  rows($('fine').querySelector('ul'), fine, key, make, fill);
  text($('checked'), v.checked_at ? `Looked ${new Date(v.checked_at).toLocaleTimeString()}; streamctl doctor looks now.` : 'The first examination is being made.');
}

function charts() {
  const span = document.querySelector('input[name=span]:checked').value;
  const seconds = span === 'day' ? 86400 : 3600;
  const now = view ? Date.parse(view.at) / 1000 : Date.now() / 1000;
  rows($('charts'), history.streams, (n) => n, () => el('figure'), (f, n) => {
    const i = history.streams.indexOf(n) + 1;
    chart(f, n, history[span].map((p) => [p[0], p[i]]), seconds, now);
  });
}

// remember adds the newest view to the history, the worst of each step.
function remember(v) {
  const at = Date.parse(v.at) / 1000;
  if (v.age_seconds !== 0 || !v.streams.length) return;
  history.streams = v.streams.map((s) => s.name);
  for (const [span, step, keep] of [['hour', 5, 720], ['day', 120, 720]]) {
    const slot = Math.floor(at / step) * step;
    const values = v.streams.map((s) => s.wait_seconds);
    const last = history[span][history[span].length - 1];
    if (last && last[0] === slot) values.forEach((x, i) => { last[i + 1] = Math.max(last[i + 1], x); });
    else history[span].push([slot, ...values]);
    if (history[span].length > keep) history[span].shift();
  }
}

function show(v) {
  view = v;
  verdict(v.verdict);
  text($('version'), v.version);
  if (v.streams.length) {
    remember(v);
    road(v);
    streams(v);
    readers(v);
    backfill(v.backfill);
    charts();
  }
  showParked(v.parked);
  findings(v);
  document.body.dataset.seen = v.age_seconds >= 0 ? 'yes' : 'no';
}

// freshness says how old the page is, and loudly when it is too old to trust.
function freshness() {
  if (!heard) return;
  const silent = (Date.now() - heard) / 1000;
  const old = view && view.age_seconds > 0 ? view.age_seconds : 0;
  const stale = silent > 20;
  text($('fresh'), stale ? '' : old > 0 ? `numbers are ${age(old + silent)} old` : 'live');
  $('stale').hidden = !stale;
  if (stale) text($('stale'), `The console has not answered since ${new Date(heard).toLocaleTimeString()}. What you see is from then.`);
  document.body.classList.toggle('old', stale || old > 0);
}

const handlers = {
  console: (c) => setActions(c.actions),
  history: (h) => { history = h; charts(); },
  view: show,
};

// follow reads events until the connection ends. EventSource cannot send the
// token, so the stream is read by hand.
async function follow() {
  const res = await fetch('/api/events', {headers: auth(), cache: 'no-store'});
  if (res.status === 401) {
    await unlock('This console is open to others than this machine: it needs the token, the content of CONSOLE_TOKEN_FILE.');
    return;
  }
  if (!res.ok) throw new Error(`the console answers ${res.status}`);
  const reader = res.body.pipeThrough(new TextDecoderStream()).getReader();
  for (let held = ''; ;) {
    const {value, done} = await reader.read();
    if (done) return;
    held += value;
    const parts = held.split('\n\n');
    held = parts.pop();
    for (const p of parts) {
      const kind = /^event: (.*)$/m.exec(p), data = /^data: (.*)$/m.exec(p);
      if (!kind || !data || !handlers[kind[1]]) continue;
      heard = Date.now();
      handlers[kind[1]](JSON.parse(data[1]));
    }
    freshness();
  }
}

for (const input of document.querySelectorAll('input[name=span]')) input.addEventListener('change', charts);
for (const t of document.querySelectorAll('table.cards')) {
  t.setAttribute('role', 'table');
  for (const g of t.querySelectorAll('thead, tbody')) g.setAttribute('role', 'rowgroup');
  for (const r of t.querySelectorAll('thead tr')) r.setAttribute('role', 'row');
  for (const h of t.querySelectorAll('thead th')) h.setAttribute('role', 'columnheader');
}
setInterval(freshness, 1000);

async function keepFollowing() {
  for (let pause = 500; ; pause = Math.min(pause * 2, 10000)) {
    const began = Date.now();
    try {
      await follow();
    } catch {
      if (!heard) text($('fresh'), 'the console does not answer; trying again');
    }
    if (Date.now() - began > 10000) pause = 500;
    await new Promise((r) => setTimeout(r, pause));
  }
}

keepFollowing();
