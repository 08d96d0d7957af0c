// The token, and parked entries: to look at, to drive back, to drop.
import {el, text, count, rows} from './draw.js';

const $ = (id) => document.getElementById(id);
const store = 'sluice-token';
let actions = false;

export const token = () => sessionStorage.getItem(store) || '';
export const auth = () => (token() ? {Authorization: 'Bearer ' + token()} : {});

// A link may bring the token after its #, which no server gets to see.
const brought = new URLSearchParams(location.hash.slice(1)).get('token');
if (brought) {
  sessionStorage.setItem(store, brought);
  history.replaceState(null, '', location.pathname);
}

export function say(message) {
  $('said').textContent = '';
  setTimeout(() => { $('said').textContent = message; }, 50);
  clearTimeout(say.timer);
  say.timer = setTimeout(() => { $('said').textContent = ''; }, 12000);
}

// ask calls the console and returns what it answers; an error says why not.
export async function ask(path, body) {
  const init = {headers: auth()};
  if (body) {
    init.method = 'POST';
    init.headers['Content-Type'] = 'application/json';
    init.body = JSON.stringify(body);
  }
  const res = await fetch(path, init);
  const answer = await res.json().catch(() => ({error: `the console answers ${res.status}`}));
  if (res.ok) return answer;
  const err = new Error(answer.error || `the console answers ${res.status}`);
  err.status = res.status;
  throw err;
}

export function setActions(on) {
  actions = on;
  lock();
}

function lock() {
  const open = token() !== '';
  text($('lock'), !actions ? 'Only shows' : open ? 'Actions unlocked' : 'Actions locked');
  $('lock').disabled = !actions;
  $('lock').title = actions ? '' : 'No token is set: start the console with CONSOLE_TOKEN_FILE to allow actions.';
  document.body.dataset.actions = actions ? 'on' : 'off';
}

let waiting = null;

// unlock asks for the token and returns whether there is one.
export function unlock(why) {
  if (waiting) return waiting.promise;
  text($('token-why'), why || 'Actions need the token of this console: the content of CONSOLE_TOKEN_FILE.');
  text($('token-error'), '');
  $('token').value = '';
  waiting = Promise.withResolvers();
  $('token-dialog').showModal();
  return waiting.promise;
}

$('token-form').addEventListener('submit', async (e) => {
  e.preventDefault();
  const before = token();
  sessionStorage.setItem(store, $('token').value.trim());
  try {
    await ask('/api/token', {});
    $('token-dialog').close('ok');
  } catch (err) {
    sessionStorage.setItem(store, before);
    text($('token-error'), err.message);
    $('token').focus();
  }
});

$('token-dialog').addEventListener('close', () => {
  lock();
  const w = waiting;
  waiting = null;
  if (w) w.resolve($('token-dialog').returnValue === 'ok' && token() !== '');
  $('token-dialog').returnValue = '';
});

$('lock').addEventListener('click', () => {
  if (token()) {
    sessionStorage.removeItem(store);
    lock();
    say('Actions are locked again.');
    return;
  }
  unlock().then((ok) => { if (ok) say('Actions are unlocked in this tab.'); });
});

for (const b of document.querySelectorAll('dialog [data-close]')) {
  b.addEventListener('click', () => b.closest('dialog').close());
}

// confirmed asks a question with the name of what will be done on the button.
function confirmed(title, question, yes) {
  const d = $('confirm-dialog');
  text($('confirm-title'), title);
  text($('confirm-text'), question);
  text($('confirm-yes'), yes);
  const done = Promise.withResolvers();
  d.returnValue = '';
  $('confirm-yes').onclick = () => d.close('yes');
  d.onclose = () => done.resolve(d.returnValue === 'yes');
  d.showModal();
  return done.promise;
}

const entries = (n) => (n === 1 ? '1 entry' : `${count(n)} entries`);

// change does an action on letters: those with ids, else all with the reason.
async function change(verb, what, n) {
  if (!token() && !(await unlock())) return false;
  if (verb === 'drop' && !(await confirmed(`Drop ${entries(n)}?`, `${entries(n)} of ${what.stream} will be deleted for good. They are not in the tables, and no one can bring them back.`, `Drop ${entries(n)}`))) return false;
  const body = {...what};
  if (verb === 'drop') body.confirm = 'drop';
  try {
    const answer = await ask('/api/letters/' + verb, body);
    const done = verb === 'drop' ? answer.dropped : answer.redriven;
    say(verb === 'drop' ? `${entries(done)} dropped.` : `${entries(done)} appended to ${what.stream} again.`);
    return true;
  } catch (err) {
    if (err.status === 401) {
      sessionStorage.removeItem(store);
      lock();
    }
    say(err.message);
    return false;
  }
}

// showParked fills the table of parked entries.
export function showParked(parked) {
  $('parked').hidden = parked.length === 0;
  $('no-parked').hidden = parked.length !== 0;
  rows($('parked').tBodies[0], parked, (p) => p.stream + ' ' + p.reason, (p) => {
    const button = (label, act, cls) => {
      const b = el('button', {type: 'button', class: cls || '', 'aria-label': `${label} ${p.reason} of ${p.stream}`}, label);
      b.addEventListener('click', () => act(row));
      return b;
    };
    const what = {stream: p.stream, reason: p.reason};
    const row = el('tr', {role: 'row'},
      el('th', {scope: 'row', role: 'rowheader'}, el('code', null, p.stream)),
      el('td', {role: 'cell', 'data-label': 'Reason'}, el('code', null, p.reason)),
      el('td', {role: 'cell', class: 'n', 'data-label': 'Entries'}),
      el('td', {role: 'cell', class: 'actions'},
        button('Inspect', () => inspect(p.stream, p.reason)),
        button('Redrive', (r) => change('redrive', what, r.total), 'act'),
        button('Drop …', (r) => change('drop', what, r.total), 'act danger')));
    return row;
  }, (row, p) => {
    row.total = p.count;
    text(row.cells[2], count(p.count));
  });
}

let shown = null;

async function inspect(stream, reason) {
  shown = {stream, reason, last: ''};
  text($('letters-title'), `${reason} of ${stream}`);
  $('letters-list').replaceChildren();
  $('letters').hidden = false;
  $('letters-title').focus();
  await more();
}

async function more() {
  const s = shown;
  const query = new URLSearchParams({stream: s.stream, reason: s.reason, limit: 20});
  if (s.last) query.set('after', s.last);
  try {
    const page = await ask('/api/letters?' + query);
    if (shown !== s) return;
    for (const l of page.letters) {
      $('letters-list').append(letter(s.stream, l));
      s.last = l.id;
    }
    if (!$('letters-list').children.length) $('letters-list').append(el('p', {class: 'quiet'}, 'Nothing is left of it.'));
    $('letters-more').hidden = !page.more;
  } catch (err) {
    say(err.message);
  }
}

// letter is one parked entry; its content is asked for when it is opened.
function letter(stream, l) {
  const parked = new Date(l.parked_at);
  const body = el('div', {class: 'letter'});
  const d = el('details', null,
    el('summary', null, el('code', null, l.id), ' ', el('span', {class: 'why'}, l.error || 'no error text')),
    body);
  d.addEventListener('toggle', async () => {
    if (!d.open || body.firstChild) return;
    try {
      fill(body, d, stream, await ask(`/api/letters/${encodeURIComponent(stream)}/${encodeURIComponent(l.id)}`), parked);
    } catch (err) {
      body.append(el('p', {class: 'error'}, err.message));
    }
  });
  return d;
}

function fill(body, details, stream, l, parked) {
  const fact = (name, value) => [el('dt', null, name), el('dd', null, value)];
  body.append(el('dl', null,
    ...fact('parked', isNaN(parked) ? 'unknown' : parked.toLocaleString()),
    ...fact('tries', count(l.attempts)),
    ...fact('source id', l.source_id),
    ...(l.unreadable ? fact('unreadable', l.unreadable) : [])));
  const content = l.entry ? JSON.stringify(l.entry, null, 2) : Object.entries(l.fields || {}).map(([k, v]) => `${k}: ${v}`).join('\n');
  body.append(el('pre', {tabindex: '0', role: 'region', 'aria-label': 'Content of ' + l.id}, content));
  const one = {stream, ids: [l.id]};
  for (const [label, verb, cls] of [['Redrive this one', 'redrive', 'act'], ['Drop this one …', 'drop', 'act danger']]) {
    const b = el('button', {type: 'button', class: cls}, label);
    b.addEventListener('click', async () => {
      if (!(await change(verb, one, 1))) return;
      const next = details.nextElementSibling || details.previousElementSibling;
      details.remove();
      (next ? next.querySelector('summary') : $('letters-title')).focus();
    });
    body.append(b);
  }
}

$('letters-more').addEventListener('click', more);
$('letters-close').addEventListener('click', () => {
  $('letters').hidden = true;
  shown = null;
  const b = $('parked').querySelector('button');
  if (b) b.focus();
});

lock();
