// The page around the verifier: shows what holds, or which check failed; a reader may compare with a genesis of their own.
const decode = id => Uint8Array.from(atob(document.getElementById(id).textContent), c => c.charCodeAt(0));
const integers = (_, value, context) => typeof value === 'number' ? BigInt(context.source) : value;
const CHECKS = { form: 'Form', federation: 'Federation', header: 'Header', leaf: 'Entry', path: 'Place in the log', opening: 'Payload', certificate: 'Signatures' };
const element = (name, text, className) => Object.assign(document.createElement(name), { textContent: text ?? '', className: className ?? '' });
const time = ms => ms < 8640000000000000n ? new Date(Number(ms)).toISOString() : `${ms} ms`;

function showFacts({ leaf, header, opening }) {
  const data = opening && Uint8Array.from(atob(opening.data), c => c.charCodeAt(0));
  let payload = 'not in this proof';
  if (data) try { payload = new TextDecoder('utf-8', { fatal: true }).decode(data); } catch { payload = hex(data); }
  const rows = [['Update', leaf.update_id], ['Payload', payload], ['Sequence number', `${leaf.sequence}, in slot ${header.slot}`], ['Author\'s time', time(leaf.timestamp)],
    ['Committed', `${time(header.timestamp)}, by the leader's clock, which a quorum found fresh`], ['Log root', header.log_root], ['Author', leaf.author]];
  document.getElementById('facts').replaceChildren(...rows.map(([name, value]) => {
    const row = element('tr');
    row.append(element('th', name), element('td', value));
    return row;
  }));
}

async function show(genesis, source) {
  const [verdict, list] = ['verdict', 'checks'].map(id => document.getElementById(id));
  const item = (ok, check, sentence) => list.append(element('li', `${CHECKS[check] ?? 'Genesis'}: ${sentence}`, ok ? 'ok' : 'no'));
  list.replaceChildren();
  try {
    const federation = await federationOf(genesis);
    document.getElementById('federation').textContent = federation.id;
    const { proof, held } = await verify(decode('proof'), federation);
    held.forEach(([check, sentence]) => item(true, check, sentence));
    showFacts(proof);
    verdict.className = 'valid';
    verdict.textContent = 'Valid';
    document.getElementById('against').textContent = source;
  } catch (error) {
    verdict.className = 'invalid';
    verdict.textContent = 'Not valid';
    item(false, error.check, error instanceof Refusal ? error.message : `this browser cannot verify it: ${error.message}`);
    document.getElementById('against').textContent = source;
  }
  document.body.dataset.done = 'true';
}

const embedded = JSON.parse(new TextDecoder().decode(decode('genesis')), integers);
const defaults = JSON.parse(new TextDecoder().decode(decode('defaults')), integers);
const OWN = 'Checked against the genesis in this page: compare the federation\'s id with one that you have from elsewhere, or paste your own genesis below.';
show(embedded, OWN);
document.getElementById('compare').addEventListener('click', async () => {
  const pasted = document.getElementById('pasted').value.trim();
  const [verdict, against] = ['verdict', 'against'].map(id => document.getElementById(id));
  if (/^[0-9a-f]{64}$/.test(pasted)) {
    const { id } = await federationOf(embedded);
    await show(embedded, id === pasted ? 'Checked against the federation id that you pasted.' : OWN);
    if (id !== pasted) { verdict.className = 'invalid'; verdict.textContent = 'Not valid'; against.textContent = `The proof is of federation ${id}, not of the one that you pasted.`; }
    return;
  }
  try {
    await show(readGenesis(pasted, defaults), 'Checked against the genesis that you pasted.');
  } catch (error) {
    verdict.className = 'invalid';
    verdict.textContent = 'Not checked';
    against.textContent = error.message;
  }
});
