// Verifies a commit proof as docs/proofs.md, section 4, says. Every check throws a Refusal that names it; nothing is fetched.
'use strict';

class Refusal extends Error {
  constructor(check, message) { super(message); this.check = check; }
}
const must = (condition, check, message) => { if (!condition) throw new Refusal(check, message); };

// Canonical bytes (section 1): little-endian integers, `var` with its length as u32, tags with a zero byte.
const utf8 = text => new TextEncoder().encode(text);
const unhex = text => Uint8Array.from(text.match(/../g) ?? [], byte => parseInt(byte, 16));
const hex = bytes => Array.from(bytes, byte => byte.toString(16).padStart(2, '0')).join('');
const little = (value, width) => Uint8Array.from({ length: width }, (_, i) => Number((BigInt(value) >> BigInt(8 * i)) & 255n));
const [u8, u16, u32, u64] = [1, 2, 4, 8].map(width => value => little(value, width));
const concat = parts => {
  const all = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  parts.reduce((at, part) => { all.set(part, at); return at + part.length; }, 0);
  return all;
};
const tag = name => utf8(`exo-federation/v1/${name}\0`);
const variable = bytes => concat([u32(bytes.length), bytes]);
const hash = async (...parts) => new Uint8Array(await crypto.subtle.digest('SHA-256', concat(parts)));
const same = (a, b) => a.length === b.length && a.every((byte, i) => byte === b[i]);

// The proof's JSON form, field by field in its one order.
const KINDS = ['normal', 'epoch_end'];
const number = bits => ({ write: value => `${value}`, check: value => typeof value === 'bigint' && value >= 0n && value < 1n << BigInt(bits) });
const text = { write: value => JSON.stringify(value), check: value => typeof value === 'string' && value.isWellFormed() };
const hexOf = bytes => ({ write: text.write, check: value => typeof value === 'string' && value.length === 2 * bytes && /^[0-9a-f]*$/.test(value) });
const oneOf = values => ({ write: text.write, check: value => values.includes(value) });
const base64 = {
  write: text.write,
  check: value => typeof value === 'string' && /^[A-Za-z0-9+/]*={0,2}$/.test(value) && value.length % 4 === 0 && btoa(atob(value)) === value,
};
const HEADER = {
  kind: oneOf(KINDS), federation_id: hexOf(32), epoch: number(64), slot: number(64), first_sequence: number(64), count: number(32), parent: hexOf(32),
  body_digest: hexOf(32), log_root: hexOf(32), timestamp: number(64), membership_digest: hexOf(32),
};
const PROOF = {
  format: oneOf(['exo-federation/commit-proof/1']),
  federation_id: hexOf(32),
  leaf: { sequence: number(64), author: hexOf(32), update_id: text, timestamp: number(64), data_length: number(64), data_digest: hexOf(32) },
  path: [hexOf(32)],
  header: HEADER,
  certificate: { epoch: number(64), view: number(64), slot: number(64), digest: hexOf(32), signatures: [{ peer: text, signature: hexOf(64) }] },
  opening: { optional: { salt: hexOf(16), data: base64 } },
};

function render(value, shape, name, indent) {
  const inner = `${indent}  `;
  if (shape.write) {
    must(shape.check(value), 'form', `${name} is not what it must be`);
    return shape.write(value);
  }
  if (shape.optional) return value === null ? 'null' : render(value, shape.optional, name, indent);
  must(value !== null && typeof value === 'object' && Array.isArray(value) === Array.isArray(shape), 'form', `${name} is missing or of another kind`);
  if (Array.isArray(shape)) {
    const items = value.map((item, i) => inner + render(item, shape[0], `${name}[${i}]`, inner));
    return items.length ? `[\n${items.join(',\n')}\n${indent}]` : '[]';
  }
  const fields = Object.entries(shape).map(([key, of]) => `${inner}"${key}": ${render(value[key], of, name ? `${name}.${key}` : key, inner)}`);
  return `{\n${fields.join(',\n')}\n${indent}}`;
}

function parse(bytes) {
  let proof, read;
  try {
    read = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes);
    // Integers of 64 bits: a parser that makes floating-point numbers of them is no use.
    proof = JSON.parse(read, (_, value, context) => typeof value !== 'number' ? value : /^(0|[1-9][0-9]*)$/.test(context.source) ? BigInt(context.source) : value);
  } catch (error) {
    throw new Refusal('form', `the proof is no JSON: ${error.message}`);
  }
  must(same(utf8(`${render(proof, PROOF, '', '')}\n`), bytes), 'form', 'the proof is not in its one canonical form');
  return proof;
}

// The genesis (section 2): what its bytes hash to is the federation's id.
const membersOf = genesis => concat([
  u32(genesis.members.length),
  ...genesis.members.flatMap(m => [variable(utf8(m.peer)), ...[m.consensus_key, m.transport_key, m.cosignature_key].map(unhex)]),
]);
const named = list => concat([u32(list.length), ...list.flatMap(entry => [variable(utf8(entry.name)), unhex(entry.key)])]);
const PARAMETERS = ['window_slots', 'checkpoint_slots', 'max_batch_updates', 'max_batch_bytes', 'max_submission_updates', 'max_data_bytes', 'max_lifetime_ms',
  'max_drift_ms', 'max_live_ids'];

// Encodings of points of small order (the sign bit apart): no key and no R may be one.
const SMALL_ORDER = new Set([
  '0000000000000000000000000000000000000000000000000000000000000000', '0100000000000000000000000000000000000000000000000000000000000000',
  '26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05', 'c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a',
  'ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f', 'edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f',
  'eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f',
]);
const weak = point => SMALL_ORDER.has(hex(Uint8Array.from(point, (byte, i) => i === 31 ? byte & 127 : byte)));

async function federationOf(genesis) {
  const members = membersOf(genesis);
  const parameters = PARAMETERS.map(name => u64(genesis.parameters[name]));
  const id = await hash(tag('genesis'), u16(1), variable(utf8(genesis.name)), members, named(genesis.authors), named(genesis.readers), ...parameters);
  return {
    genesis,
    id: hex(id),
    membership: hex(await hash(tag('membership'), u64(0), members)),
    quorum: Math.floor((2 * genesis.members.length + 2) / 3),
  };
}

// A federation.toml as `exofed init` writes it. What is not understood is refused, because it may be hashed.
function readGenesis(source, defaults) {
  const genesis = { name: null, members: [], authors: [], readers: [], parameters: { ...defaults } };
  let into = null;
  for (const [at, whole] of source.split(/\r?\n/).entries()) {
    const line = whole.trim();
    if (!line || line.startsWith('#')) continue;
    const section = line.match(/^\[+([a-z.]+)\]+$/)?.[1];
    const list = section?.match(/^genesis\.(members|authors|readers)$/)?.[1];
    if (list) { into = {}; genesis[list].push(into); continue; }
    if (section) { into = { genesis, 'genesis.parameters': genesis.parameters, addresses: {} }[section]; must(into, 'genesis', `line ${at + 1}: unknown section`); continue; }
    const [, key, value] = line.match(/^([A-Za-z0-9_.-]+)\s*=\s*(".*"|[0-9_]+|\[\])$/) ?? [];
    must(into && key, 'genesis', `line ${at + 1} of the genesis is not understood`);
    try { into[key] = value === '[]' ? [] : value.startsWith('"') ? JSON.parse(value) : BigInt(value.replaceAll('_', '')); } catch { must(false, 'genesis', `line ${at + 1}: a bad value`); }
  }
  const keys = genesis.members.flatMap(m => [m.consensus_key, m.transport_key, m.cosignature_key]).concat([...genesis.authors, ...genesis.readers].map(a => a.key));
  must(typeof genesis.name === 'string' && genesis.members.length >= 4, 'genesis', 'a genesis names a federation and at least four members');
  must(keys.every(key => hexOf(32).check(key)), 'genesis', 'every key of the genesis is 64 hex digits');
  return genesis;
}

// The steps of section 4, "Verification". Yields what holds, a sentence a check, in order.
async function verify(bytes, federation) {
  const held = [];
  const proof = parse(bytes);
  held.push(['form', 'the proof is in its one canonical form.']);

  const { leaf, header, certificate, path, opening } = proof;
  must(proof.federation_id === federation.id && header.federation_id === federation.id, 'federation', `the proof is of federation ${proof.federation_id}`);
  must(header.membership_digest === federation.membership && header.epoch === 0n, 'federation', 'the header names another membership');
  held.push(['federation', `the membership is that of ${federation.id}.`]);

  const last = header.first_sequence + header.count - 1n;
  must(header.count >= 1n && header.first_sequence >= 1n && last < 1n << 64n, 'header', 'the header counts no update, or too many');
  const id = utf8(leaf.update_id);
  must(id.length >= 1 && id.length <= 256, 'leaf', 'the update id has 1 to 256 bytes');
  must(header.first_sequence <= leaf.sequence && leaf.sequence <= last, 'leaf', 'the sequence number is outside the batch');
  const author = federation.genesis.authors.find(a => a.key === leaf.author);
  must(author, 'leaf', 'the genesis admits no such author');
  held.push(['leaf', `number ${leaf.sequence}, by author ${author.name}.`]);

  let node = await hash(u8(0), u16(1), u64(leaf.sequence), unhex(leaf.author), variable(id), u64(leaf.timestamp), u64(leaf.data_length), unhex(leaf.data_digest));
  let [index, end] = [leaf.sequence - 1n, last - 1n];
  for (const sibling of path.map(unhex)) {
    must(end > 0n, 'path', 'the path is too long');
    if ((index & 1n) === 1n || index === end) {
      node = await hash(u8(1), sibling, node);
      while ((index & 1n) === 0n && index !== 0n) { index >>= 1n; end >>= 1n; }
    } else {
      node = await hash(u8(1), node, sibling);
    }
    index >>= 1n;
    end >>= 1n;
  }
  must(end === 0n, 'path', 'the path is too short');
  must(hex(node) === header.log_root, 'path', 'the path leads to another root than the header\'s');
  held.push(['path', `a path of ${path.length} hashes leads to the root of the log's first ${last} entries.`]);

  if (opening) {
    const data = Uint8Array.from(atob(opening.data), c => c.charCodeAt(0));
    must(BigInt(data.length) === leaf.data_length, 'opening', 'the payload has another length');
    const digest = await hash(tag('data'), unhex(opening.salt), variable(id), variable(data));
    must(hex(digest) === leaf.data_digest, 'opening', 'the payload has another digest');
    held.push(['opening', `${data.length} bytes, the ones that were committed.`]);
  }

  const digest = await hash(tag('header'), u16(1), u8(KINDS.indexOf(header.kind)), unhex(header.federation_id), u64(header.epoch), u64(header.slot), u64(header.first_sequence),
    u32(header.count), unhex(header.parent), unhex(header.body_digest), unhex(header.log_root), u64(header.timestamp), unhex(header.membership_digest));
  must(certificate.epoch === header.epoch && certificate.slot === header.slot && certificate.digest === hex(digest), 'certificate', 'the certificate is for another header');
  const signers = certificate.signatures.map(({ peer }) => federation.genesis.members.findIndex(m => m.peer === peer));
  must(signers.every((signer, i) => signer >= 0 && (i === 0 || signer > signers[i - 1])), 'certificate', 'the signers are not members in ascending order');
  must(signers.length >= federation.quorum, 'certificate', `${signers.length} signatures, a quorum is ${federation.quorum}`);
  const vote = concat([tag('vote'), u8(2), unhex(header.federation_id), u64(certificate.epoch), u64(certificate.view), u64(certificate.slot), digest]);
  for (const [i, { peer, signature }] of certificate.signatures.entries()) {
    const [key, bytes] = [unhex(federation.genesis.members[signers[i]].consensus_key), unhex(signature)];
    const usable = !weak(key) && !weak(bytes.subarray(0, 32));
    const valid = usable && await crypto.subtle.verify('Ed25519', await crypto.subtle.importKey('raw', key, 'Ed25519', false, ['verify']), bytes, vote).catch(() => false);
    must(valid, 'certificate', `${peer} did not sign this header`);
  }
  held.push(['certificate', `by ${certificate.signatures.map(s => s.peer).join(', ')}; a quorum of ${federation.genesis.members.length} is ${federation.quorum}.`]);
  return { proof, held };
}
