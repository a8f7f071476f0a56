//! The cost of the parts of an update's way, one core each: `cargo bench`.
#![allow(clippy::unwrap_used)]

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use exo_federation::crypto::merkle::Frontier;
use exo_federation::crypto::{Digest, SigningKey, VerifyingKey, sha256};
use exo_federation::types::{Body, FederationId, StateUpdate, Submission, UpdateId, decode, encode};

/// Runs `work` for about half a second and prints its median over batches, in microseconds.
fn measure(name: &str, mut work: impl FnMut()) {
    let mut samples = Vec::new();
    let until = Instant::now() + Duration::from_millis(500);
    while Instant::now() < until {
        let begin = Instant::now();
        for _ in 0..16 {
            work();
        }
        samples.push(begin.elapsed().as_secs_f64() * 1e6 / 16.0);
    }
    samples.sort_by(f64::total_cmp);
    println!("{name:<40} {:>10.2} us", samples[samples.len() / 2]);
}

fn main() {
    let key = SigningKey::from_seed(&[1; 32]);
    let public = VerifyingKey::new(key.public()).unwrap();
    let federation = FederationId(Digest::ZERO);
    let updates =
        |n: usize| (0..n).map(|i| StateUpdate { update_id: UpdateId(format!("update-{i:08}")), data: vec![7; 512], timestamp: 1 }).collect();
    let submission = Submission::sign(federation, &key, 1, updates(64));
    let body = Body { submissions: (0..8).map(|_| Arc::new(submission.clone())).collect() };
    let bytes = encode(&body).unwrap();
    let digests = body.digests(federation);
    let signature = key.sign(b"message");
    measure("sign", || {
        black_box(key.sign(black_box(b"message")));
    });
    measure("verify_strict", || {
        let _ = black_box(public.verify(black_box(b"message"), &signature));
    });
    measure("sha256 of 512 B", || {
        black_box(sha256(black_box(&[7; 512])));
    });
    measure("hash a submission of 64 x 512 B", || drop(black_box(submission.digests(federation))));
    measure("encode a body of 512 x 512 B", || drop(black_box(encode(&body))));
    measure("decode a body of 512 x 512 B", || drop(black_box(decode::<Body>(&bytes))));
    measure("leaves and leaf hashes of 512 updates", || {
        black_box(body.leaves(&digests, 1).iter().map(|leaf| leaf.hash()).collect::<Vec<_>>());
    });
    let hashes: Vec<Digest> = body.leaves(&digests, 1).iter().map(|leaf| leaf.hash()).collect();
    measure("append 512 leaves to a frontier", || {
        let mut frontier = Frontier::default();
        hashes.iter().for_each(|hash| frontier.append(*hash));
        black_box(frontier.root());
    });
}
