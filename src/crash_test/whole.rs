//! The check of everything, from the beginning: the logs as each replica serves them, every journal, and then, of stopped replicas, their files.

use std::path::Path;
use std::sync::Arc;

use super::acks::Ack;
use super::checker::Checker;
use super::error::CrashTestError;
use super::finding::{Findings, Wrong};
use super::fleet::{Fleet, LIFETIME_MS, client};
use super::load::{Fate, Source, probe};
use super::schedule::Dice;
use crate::audit::audit;
use crate::process;
use crate::types::{Federation, Sequence};

/// Has one more update committed. What was committed before stands below it, so its place is where every log must reach.
pub(crate) async fn probe_end(dir: &Path, source: &Source, dice: &mut Dice) -> Result<(Sequence, Ack), CrashTestError> {
    let no_progress = |reason| CrashTestError::NoProgress { seconds: LIFETIME_MS / 1_000, reason };
    match probe(&*client(dir)?, source, dice).await {
        Fate::Acked(acks) => {
            let ack = acks.into_iter().next();
            ack.map(|ack| (ack.sequence, ack)).ok_or_else(|| no_progress("an empty answer".to_owned()))
        }
        Fate::Unknown(why) | Fate::Refused(why) => Err(no_progress(why)),
    }
}

/// Checks everything against `acks` and stops the replicas; gives how many of `acks` hold in every log.
pub(crate) async fn check_whole(
    dir: &Path,
    federation: &Arc<Federation>,
    fleet: &mut Fleet,
    target: Sequence,
    acks: &[Ack],
    findings: &mut Findings,
) -> Result<u64, CrashTestError> {
    if acks.is_empty() {
        return Err(CrashTestError::Nothing);
    }
    let mut checker = Checker::new(dir.to_path_buf(), federation.clone());
    let client = client(dir)?;
    checker.follow_all(&client, target, findings).await?;
    let recovered = checker.look_up(acks, findings);
    checker.prove_some(&client, acks, &mut Dice::new(target), findings).await?;
    tokio::task::block_in_place(|| checker.search_journals(findings))?;
    fleet.stop().await?;
    tokio::task::block_in_place(|| (0..fleet.size()).try_for_each(|replica| audit_files(dir, federation, replica, &checker, findings)))?;
    Ok(recovered)
}

fn audit_files(dir: &Path, federation: &Federation, replica: usize, served: &Checker, findings: &mut Findings) -> Result<(), CrashTestError> {
    let peer = process::name(replica);
    let data = dir.join(&peer).join("data");
    let report = audit(&data, federation, |_| {}).map_err(|error| CrashTestError::Audit { peer: peer.clone(), error: Box::new(error) })?;
    for bad in &report.findings {
        let what = format!("{peer}: slot {} sequence {}: {}: expected {}, found {}", bad.slot, bad.sequence, bad.rule, bad.expected, bad.found);
        findings.add(Wrong::Damaged, what);
    }
    if report.clean && Some((report.head, report.log_root)) != served.end_of(replica) {
        let what = format!("{peer}: its files end at {} with root {}, which is not what it served", report.head, report.log_root);
        findings.add(Wrong::Forked, what);
    }
    Ok(())
}
