//! The Merkle tree of RFC 6962, section 2.1: leaf and node hashes, a frontier that grows by appending, and proofs.
//!
//! A tree of `n` leaves splits at the largest power of two below `n`. Nothing here stores the tree; [`Nodes`] says where hashes come from.

use bincode::{Decode, Encode};
use sha2::{Digest as _, Sha256};

use super::Digest;

/// The most hashes that one path or range proof can hold: two edges of a tree of 2^64 leaves.
pub const MAX_PROOF_NODES: usize = 128;

/// H(0x00, leaf).
#[must_use]
pub fn leaf_hash(leaf: &[u8]) -> Digest {
    Digest(Sha256::new().chain_update([0]).chain_update(leaf).finalize().into())
}

/// H(0x01, left, right).
#[must_use]
pub fn node_hash(left: &Digest, right: &Digest) -> Digest {
    Digest(Sha256::new().chain_update([1]).chain_update(left.0).chain_update(right.0).finalize().into())
}

/// H(), the root of the empty tree.
#[must_use]
pub fn empty_root() -> Digest {
    super::sha256(b"")
}

/// The largest power of two strictly below `n`; `n` is at least 2.
fn split_point(n: u64) -> u64 {
    1 << (63 - (n - 1).leading_zeros())
}

/// The right edge of a tree: the roots of its complete subtrees, largest first. Enough to append and to compute the root.
#[derive(Debug, Clone, PartialEq, Eq, Default, Encode, Decode)]
pub struct Frontier {
    size: u64,
    peaks: Vec<Digest>,
}

impl Frontier {
    /// The frontier of a tree of `size` leaves whose complete subtrees, largest first, have these roots; `None` when their number does not fit the size.
    #[must_use]
    pub fn from_peaks(size: u64, peaks: Vec<Digest>) -> Option<Self> {
        (peaks.len() == size.count_ones() as usize).then_some(Self { size, peaks })
    }

    /// The number of leaves.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The roots of the complete subtrees, largest first.
    #[must_use]
    pub fn peaks(&self) -> &[Digest] {
        &self.peaks
    }

    /// Appends one leaf hash.
    pub fn append(&mut self, leaf: Digest) {
        let mut hash = leaf;
        let mut merged = self.size;
        while merged & 1 == 1 {
            let Some(left) = self.peaks.pop() else { break };
            hash = node_hash(&left, &hash);
            merged >>= 1;
        }
        self.peaks.push(hash);
        self.size += 1;
    }

    /// The tree's root.
    #[must_use]
    pub fn root(&self) -> Digest {
        let mut peaks = self.peaks.iter().rev();
        let Some(last) = peaks.next() else { return empty_root() };
        peaks.fold(*last, |right, left| node_hash(left, &right))
    }

    /// The root of leaves `[from, to)` if that range is one of the complete subtrees on this frontier.
    fn peak(&self, from: u64, to: u64) -> Option<Digest> {
        let mut start = 0;
        for (at, peak) in self.peaks.iter().enumerate() {
            let remaining = self.size - start;
            let width = 1u64 << (63 - remaining.leading_zeros());
            if start == from && start + width == to {
                return self.peaks.get(at).copied().or(Some(*peak));
            }
            start += width;
        }
        None
    }
}

/// A source of subtree roots.
pub trait Nodes {
    /// Why a hash could not be had.
    type Error;

    /// The root of leaves `[from, to)`, which is a subtree of the tree asked about.
    ///
    /// # Errors
    /// Whatever the source says.
    fn subtree(&self, from: u64, to: u64) -> Result<Digest, Self::Error>;
}

/// The new leaves of a tree beside the frontier before them: enough for the proofs of the batch that was just appended.
pub struct Tail<'a> {
    /// The frontier before the new leaves.
    pub before: &'a Frontier,
    /// The new leaf hashes, in order.
    pub leaves: &'a [Digest],
}

/// A hash that lies outside what a [`Tail`] knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("leaves {from}..{to} are outside the known part of the tree")]
pub struct UnknownRange {
    /// First leaf index.
    pub from: u64,
    /// One past the last leaf index.
    pub to: u64,
}

impl Nodes for Tail<'_> {
    type Error = UnknownRange;

    fn subtree(&self, from: u64, to: u64) -> Result<Digest, UnknownRange> {
        let unknown = UnknownRange { from, to };
        if let Some(peak) = self.before.peak(from, to) {
            return Ok(peak);
        }
        if to - from == 1 {
            let at = from.checked_sub(self.before.size).ok_or(unknown)?;
            return usize::try_from(at).ok().and_then(|at| self.leaves.get(at)).copied().ok_or(unknown);
        }
        if to <= self.before.size {
            return Err(unknown);
        }
        let middle = from + split_point(to - from);
        Ok(node_hash(&self.subtree(from, middle)?, &self.subtree(middle, to)?))
    }
}

/// The inclusion path of leaf `index` in the tree of `size` leaves: sibling hashes from the leaf up (RFC 6962, section 2.1.1).
///
/// # Errors
/// What the source says. `index` must be below `size`; otherwise the path is empty and will not verify.
pub fn inclusion_path<N: Nodes>(nodes: &N, index: u64, size: u64) -> Result<Vec<Digest>, N::Error> {
    let mut path = Vec::new();
    let (mut from, mut to) = (0, size);
    while index < size && to - from > 1 {
        let middle = from + split_point(to - from);
        if index < middle {
            path.push(nodes.subtree(middle, to)?);
            to = middle;
        } else {
            path.push(nodes.subtree(from, middle)?);
            from = middle;
        }
    }
    path.reverse();
    Ok(path)
}

/// The root that an inclusion path implies; `None` when the path's length does not fit the place (RFC 9162, section 2.1.3.2).
#[must_use]
pub fn root_from_path(leaf: Digest, index: u64, size: u64, path: &[Digest]) -> Option<Digest> {
    if index >= size {
        return None;
    }
    let (mut node, mut last) = (index, size - 1);
    let mut hash = leaf;
    for sibling in path {
        if last == 0 {
            return None;
        }
        if node & 1 == 1 || node == last {
            hash = node_hash(sibling, &hash);
            while node & 1 == 0 && node != 0 {
                node >>= 1;
                last >>= 1;
            }
        } else {
            hash = node_hash(&hash, sibling);
        }
        node >>= 1;
        last >>= 1;
    }
    (last == 0).then_some(hash)
}

/// The hashes that show that the tree of `old` leaves is the beginning of the tree of `new` (RFC 9162, section 2.1.4.1). Nothing needs to be shown
/// of an empty tree, nor of a tree and itself.
///
/// # Errors
/// What the source says.
pub fn consistency_path<N: Nodes>(nodes: &N, old: u64, new: u64) -> Result<Vec<Digest>, N::Error> {
    let mut path = Vec::new();
    if old == 0 || old >= new {
        return Ok(path);
    }
    // Down to the subtree that ends where the old tree does; its own hash is known to the verifier if it is the whole old tree.
    let (mut from, mut to) = (0, new);
    while old != to {
        let middle = from + split_point(to - from);
        if old <= middle {
            path.push(nodes.subtree(middle, to)?);
            to = middle;
        } else {
            path.push(nodes.subtree(from, middle)?);
            from = middle;
        }
    }
    if from != 0 {
        path.push(nodes.subtree(from, to)?);
    }
    path.reverse();
    Ok(path)
}

/// Whether a path shows that the tree of `old` leaves with `old_root` is the beginning of the tree of `new` leaves with `new_root`
/// (RFC 9162, section 2.1.4.2).
#[must_use]
pub fn is_consistent((old, old_root): (u64, Digest), (new, new_root): (u64, Digest), path: &[Digest]) -> bool {
    if old >= new || old == 0 {
        return path.is_empty() && if old == 0 { old_root == empty_root() && new > 0 } else { old == new && old_root == new_root };
    }
    let whole = old.is_power_of_two().then_some(old_root);
    let mut hashes = whole.into_iter().chain(path.iter().copied());
    let Some(first) = hashes.next() else { return false };
    let (mut node, mut last) = (old - 1, new - 1);
    while node & 1 == 1 {
        node >>= 1;
        last >>= 1;
    }
    let (mut of_old, mut of_new) = (first, first);
    for hash in hashes {
        if last == 0 {
            return false;
        }
        if node & 1 == 1 || node == last {
            of_old = node_hash(&hash, &of_old);
            of_new = node_hash(&hash, &of_new);
            while node & 1 == 0 && node != 0 {
                node >>= 1;
                last >>= 1;
            }
        } else {
            of_new = node_hash(&of_new, &hash);
        }
        node >>= 1;
        last >>= 1;
    }
    last == 0 && of_old == old_root && of_new == new_root
}

/// The hashes outside leaves `[from, to)` in the tree of `size` leaves, left to right: with those leaves they give the root.
///
/// # Errors
/// What the source says.
pub fn range_proof<N: Nodes>(nodes: &N, from: u64, to: u64, size: u64) -> Result<Vec<Digest>, N::Error> {
    let mut out = Vec::new();
    if size > 0 {
        collect_outside(nodes, (0, size), (from, to), &mut out)?;
    }
    Ok(out)
}

fn collect_outside<N: Nodes>(nodes: &N, tree: (u64, u64), range: (u64, u64), out: &mut Vec<Digest>) -> Result<(), N::Error> {
    if tree.1 <= range.0 || tree.0 >= range.1 {
        out.push(nodes.subtree(tree.0, tree.1)?);
        return Ok(());
    }
    if (range.0 <= tree.0 && tree.1 <= range.1) || tree.1 - tree.0 == 1 {
        return Ok(());
    }
    let middle = tree.0 + split_point(tree.1 - tree.0);
    collect_outside(nodes, (tree.0, middle), range, out)?;
    collect_outside(nodes, (middle, tree.1), range, out)
}

/// A run of leaves and the hashes outside them: what a range proof lets its holder know of the tree.
pub struct Range<'a> {
    from: u64,
    size: u64,
    leaves: &'a [Digest],
    outside: std::collections::BTreeMap<(u64, u64), Digest>,
}

impl<'a> Range<'a> {
    /// Places the hashes of a range proof. `None` when their number does not fit.
    #[must_use]
    pub fn new(from: u64, leaves: &'a [Digest], size: u64, outside: &[Digest]) -> Option<Self> {
        let to = from.checked_add(leaves.len() as u64)?;
        if leaves.is_empty() || to > size || outside.len() > MAX_PROOF_NODES {
            return None;
        }
        let mut places = Vec::new();
        outside_places((0, size), (from, to), &mut places);
        (places.len() == outside.len()).then(|| Self { from, size, leaves, outside: places.into_iter().zip(outside.iter().copied()).collect() })
    }

    /// The root of the whole tree.
    ///
    /// # Errors
    /// Never for a range made by [`Range::new`].
    pub fn root(&self) -> Result<Digest, UnknownRange> {
        self.subtree(0, self.size)
    }
}

fn outside_places(tree: (u64, u64), range: (u64, u64), out: &mut Vec<(u64, u64)>) {
    if tree.1 <= range.0 || tree.0 >= range.1 {
        out.push(tree);
    } else if !(range.0 <= tree.0 && tree.1 <= range.1) {
        let middle = tree.0 + split_point(tree.1 - tree.0);
        outside_places((tree.0, middle), range, out);
        outside_places((middle, tree.1), range, out);
    }
}

impl Nodes for Range<'_> {
    type Error = UnknownRange;

    fn subtree(&self, from: u64, to: u64) -> Result<Digest, UnknownRange> {
        let unknown = UnknownRange { from, to };
        if let Some(hash) = self.outside.get(&(from, to)) {
            return Ok(*hash);
        }
        if to - from == 1 {
            let at = from.checked_sub(self.from).ok_or(unknown)?;
            return usize::try_from(at).ok().and_then(|at| self.leaves.get(at)).copied().ok_or(unknown);
        }
        let middle = from + split_point(to - from);
        Ok(node_hash(&self.subtree(from, middle)?, &self.subtree(middle, to)?))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn leaves(n: u64) -> Vec<Digest> {
        (0..n).map(|i| leaf_hash(&i.to_le_bytes())).collect()
    }

    /// The definition of RFC 6962, section 2.1, word for word.
    fn naive(leaves: &[Digest]) -> Digest {
        match leaves {
            [] => empty_root(),
            [one] => *one,
            many => {
                let (left, right) = many.split_at(split_point(many.len() as u64) as usize);
                node_hash(&naive(left), &naive(right))
            }
        }
    }

    #[test]
    fn rfc_6962_known_roots() {
        // Known answers of the certificate-transparency reference tests.
        assert_eq!(empty_root().to_string(), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
        assert_eq!(leaf_hash(b"").to_string(), "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d");
        let inputs: [&[u8]; 8] = [
            b"",
            b"\x00",
            b"\x10",
            b"\x20\x21",
            b"\x30\x31",
            b"\x40\x41\x42\x43",
            b"\x50\x51\x52\x53\x54\x55\x56\x57",
            b"\x60\x61\x62\x63\x64\x65\x66\x67\x68\x69\x6a\x6b\x6c\x6d\x6e\x6f",
        ];
        let mut frontier = Frontier::default();
        inputs.iter().for_each(|input| frontier.append(leaf_hash(input)));
        assert_eq!(frontier.root().to_string(), "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328");
    }

    #[test]
    fn paths_and_ranges_agree_with_the_definition() {
        for size in 1..40u64 {
            let all = leaves(size);
            let root = naive(&all);
            let mut frontier = Frontier::default();
            all.iter().for_each(|leaf| frontier.append(*leaf));
            assert_eq!(frontier.root(), root);
            for from in 0..size {
                let mut before = Frontier::default();
                all[..from as usize].iter().for_each(|leaf| before.append(*leaf));
                let tail = Tail { before: &before, leaves: &all[from as usize..] };
                for index in from..size {
                    let path = inclusion_path(&tail, index, size).unwrap();
                    assert_eq!(root_from_path(all[index as usize], index, size, &path), Some(root));
                    assert_ne!(root_from_path(all[index as usize], index ^ 1, size, &path), Some(root));
                }
                let path = consistency_path(&Range::new(0, &all, size, &[]).unwrap(), from, size).unwrap();
                let old = (from, before.root());
                assert!(is_consistent(old, (size, root), &path), "{from} is the beginning of {size}");
                assert!(!is_consistent((from, leaf_hash(b"x")), (size, root), &path));
                assert_eq!(is_consistent(old, (size, leaf_hash(b"x")), &path), from == 0, "the empty tree is the beginning of any");
                assert!(!is_consistent(old, (size, root), &[path.as_slice(), &[root]].concat()), "nothing may follow");
                for at in 0..path.len() {
                    let mut changed = path.clone();
                    changed[at].0[5] ^= 1;
                    assert!(!is_consistent(old, (size, root), &changed));
                    assert!(!is_consistent(old, (size, root), &[&path[..at], &path[at + 1..]].concat()), "nothing may be left out");
                }
                for to in from + 1..=size {
                    let outside = range_proof(&tail, from, to, size).unwrap();
                    let part = &all[from as usize..to as usize];
                    let range = Range::new(from, part, size, &outside).unwrap();
                    assert_eq!(range.root().unwrap(), root);
                    let path = inclusion_path(&range, to - 1, size).unwrap();
                    assert_eq!(root_from_path(all[to as usize - 1], to - 1, size, &path), Some(root));
                    assert!(Range::new(from, part, size, &[outside.as_slice(), &[root]].concat()).is_none());
                }
            }
        }
    }
}
