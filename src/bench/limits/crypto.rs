//! Signatures and hashes, one core at a time.

use std::hint::black_box;
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::bench::BenchError;
use crate::crypto::{SigningKey, VerifyingKey, sha256};

/// A body long enough that the hash's beginning and end do not show.
const LONG: usize = 64 << 10;

/// What one core does by itself.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct CryptoLimits {
    /// One Ed25519 signature, us.
    pub sign_us: f64,
    /// One strict check of one, us.
    pub verify_strict_us: f64,
    /// SHA-256 of one payload, us.
    pub sha256_payload_us: f64,
    /// SHA-256 of long messages, 10^6 bytes a second.
    pub sha256_mb_per_second: f64,
}

pub(super) fn measure(size: u64, slice: Duration) -> Result<CryptoLimits, BenchError> {
    let key = SigningKey::generate()?;
    let public = VerifyingKey::new(key.public())?;
    // As long as what a replica signs: a tag and digests.
    let message = [7; 96];
    let signature = key.sign(&message);
    public.verify(&message, &signature)?;
    let payload = vec![7; usize::try_from(size).unwrap_or(LONG)];
    let long = vec![7; LONG];
    Ok(CryptoLimits {
        sign_us: median_us(slice, || key.sign(black_box(&message))),
        verify_strict_us: median_us(slice, || public.verify(black_box(&message), &signature)),
        sha256_payload_us: median_us(slice, || sha256(black_box(&payload))),
        sha256_mb_per_second: LONG as f64 / median_us(slice, || sha256(black_box(&long))).max(1e-9),
    })
}

/// The median over small batches, us: what a core takes while nothing interrupts it.
fn median_us<T>(slice: Duration, mut work: impl FnMut() -> T) -> f64 {
    const BATCH: u32 = 16;
    let (mut samples, until) = (Vec::new(), Instant::now() + slice);
    while samples.is_empty() || Instant::now() < until {
        let began = Instant::now();
        (0..BATCH).for_each(|_| drop(black_box(work())));
        samples.push(began.elapsed().as_secs_f64() * 1e6 / f64::from(BATCH));
    }
    samples.sort_by(f64::total_cmp);
    samples.get(samples.len() / 2).copied().unwrap_or_default()
}
