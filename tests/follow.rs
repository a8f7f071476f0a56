//! `exofed audit --follow` on a federation in which one replica lies: a fork that stolen keys signed, an answer that nobody signed, two votes at one place.
//! The liar stands in the place of replica 3, under its keys, and answers whoever asks.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod stage;

use std::future::Future;
use std::io::{BufRead as _, BufReader};
use std::pin::Pin;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use exo_federation::client::Client;
use exo_federation::config::{ClientFile, ReplicaFile};
use exo_federation::crypto::{Digest, SigningKey};
use exo_federation::net::{Caller, Net, NetIdentity, RequestHandler};
use exo_federation::types::{
    BatchRange, CommittedBatch, ConsensusMessage, Header, LogQuery, Phase, Request, Response, SignatureSet, SignedVote, Vote, decode, encode,
};
use serde_json::Value;
use stage::{Stage, exofed, stderr};

const LIAR: u16 = 3;

/// What the liar says its log ends with.
type Tale = Arc<Mutex<Option<CommittedBatch>>>;

struct Teller(Tale);

impl RequestHandler for Teller {
    fn handle(&self, _: Caller, request: Bytes) -> Pin<Box<dyn Future<Output = Bytes> + Send>> {
        let end = self.0.lock().unwrap().clone();
        let response = match (decode(&request).unwrap(), end) {
            (Request::Log(LogQuery::FromSequence { sequence, .. }), Some(batch)) => {
                let head = batch.header.last_sequence();
                Response::Log(BatchRange { head, batches: Some(batch).filter(|_| sequence <= head).into_iter().collect() })
            }
            (Request::Log(_), _) => Response::Log(BatchRange { head: 0, batches: vec![] }),
            (Request::Evidence, _) => Response::Evidence(vec![]),
            _ => Response::Refused("it does not say".into()),
        };
        let bytes = encode(&response).unwrap();
        Box::pin(async { bytes.into() })
    }
}

fn commits(federation: &exo_federation::types::Federation, keys: &[SigningKey], header: &Header, view: u64) -> SignatureSet {
    let vote = Vote { phase: Phase::Commit, epoch: 0, view, slot: header.slot, digest: header.digest() };
    let bytes = vote.signed_bytes(federation.id());
    SignatureSet((0u16..).zip(keys).map(|(index, key)| (index, key.sign(&bytes))).take(3).collect())
}

/// The next event that fits; what a replica says of itself may come in between.
fn until(lines: &mut impl Iterator<Item = std::io::Result<String>>, fits: impl Fn(&Value) -> bool) -> Value {
    loop {
        let event: Value = serde_json::from_str(&lines.next().expect("it goes on").unwrap()).unwrap();
        if fits(&event) {
            return event;
        }
    }
}

fn from_liar(alarm: &Value) -> bool {
    alarm["where"].as_str().unwrap().ends_with(": replica-3")
}

async fn last_batch(client: &Client, sequence: u64) -> CommittedBatch {
    client.read(sequence, 1, Duration::from_secs(5)).await.unwrap().batches.pop().unwrap()
}

#[test]
fn a_follower_raises_an_alarm_for_each_lie() {
    let mut stage = Stage::init();
    (0..3).for_each(|index| stage.restart(index));
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let configs: Vec<_> = (0..4).map(|k| ReplicaFile::load(&stage.path(&format!("replica-{k}/replica.toml"))).unwrap()).collect();
    let keys: Vec<SigningKey> = configs.iter().map(|config| config.secret.consensus_key()).collect();
    let federation = configs[0].federation.clone();
    let tale = Tale::default();
    let liar = &configs[usize::from(LIAR)];
    let net = runtime.block_on(async {
        let identity = NetIdentity { index: LIAR, transport_key: liar.secret.transport_key() };
        let (inbound, keep) = tokio::sync::mpsc::unbounded_channel();
        let (listen, addresses, options) = (liar.listen, liar.addresses.clone(), liar.net.clone());
        let net = Net::start(federation.clone(), identity, listen, addresses, options, inbound, Arc::new(Teller(tale.clone()))).await.unwrap();
        let mut connected = net.watch_connected();
        tokio::time::timeout(Duration::from_secs(30), connected.wait_for(|peers| peers.contains(&0))).await.unwrap().unwrap();
        (net, keep)
    });

    let (genesis, config) = (stage.text("federation.toml"), stage.text("client.toml"));
    let mut follower = Command::new(stage::EXOFED)
        .args(["audit", "--json", "--follow", &config, "--genesis", &genesis])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut events = BufReader::new(follower.stdout.take().unwrap()).lines();
    let submitted = stage.submit(b"{\"update_id\":\"a\",\"data\":\"1\",\"timestamp\":1}\n{\"update_id\":\"b\",\"data\":\"2\",\"timestamp\":2}\n");
    assert!(submitted.status.success(), "{}", stderr(&submitted));
    until(&mut events, |event| event["event"] == "verified" && event["sequence"] == 2);

    // Another batch at a slot that was verified, with a quorum's signatures: a fork, whoever tells it.
    let client = Client::new(ClientFile::load(&stage.path("client.toml")).unwrap());
    let real = runtime.block_on(last_batch(&client, 2));
    let mut forged = real.clone();
    forged.header.timestamp += 1;
    forged.certificate.digest = forged.header.digest();
    forged.certificate.signatures = commits(&federation, &keys, &forged.header, forged.certificate.view);
    *tale.lock().unwrap() = Some(forged.clone());
    let fork = until(&mut events, |event| event["event"] == "alarm" && event["rule"] == "fork");
    assert!(from_liar(&fork) && fork["slot"] == real.header.slot, "{fork:#}");

    let mut guilty: Vec<String> =
        (0..3).map(|_| until(&mut events, |event| event["event"] == "convicted")["member"].as_str().unwrap().into()).collect();
    guilty.sort();
    assert_eq!(guilty, ["replica-0", "replica-1", "replica-2"], "whose keys signed both");

    // One that no quorum signed is the replica's own answer, and no fork.
    forged.certificate.signatures.0.truncate(2);
    *tale.lock().unwrap() = Some(forged);
    let answer = until(&mut events, |event| event["event"] == "alarm");
    assert!(answer["rule"] == "answer" && from_liar(&answer), "{answer:#}");

    // Two Commits at one place, told to one honest replica: it keeps them, and the follower hears of it.
    for digest in [Digest([1; 32]), Digest([2; 32])] {
        let vote = Vote { phase: Phase::Commit, epoch: 0, view: 0, slot: real.header.slot + 3, digest };
        let signature = keys[usize::from(LIAR)].sign(&vote.signed_bytes(federation.id()));
        let message = ConsensusMessage::Vote(SignedVote { vote, replica: LIAR, signature });
        net.0.send(0, message.class(), encode(&message).unwrap().into());
    }
    let convicted = until(&mut events, |event| event["event"] == "convicted" && event["member"] == "replica-3");
    assert_eq!((&convicted["member"], &convicted["rule"]), (&"replica-3".into(), &"E3".into()), "{convicted:#}");

    // The others go on meanwhile, and the liar takes nothing from them.
    assert!(stage.submit(b"{\"update_id\":\"c\",\"data\":\"3\",\"timestamp\":3}\n").status.success());
    until(&mut events, |event| event["event"] == "verified" && event["sequence"] == 3);
    rustix::process::kill_process(rustix::process::Pid::from_child(&follower), rustix::process::Signal::INT).unwrap();
    let summary = until(&mut events, |line| line["event"].is_null());
    assert_eq!((follower.wait().unwrap().code(), &summary["entries"]), (Some(2), &3.into()), "{summary:#}");
    assert!(summary["evidence"].as_array().unwrap().iter().any(|found| found["conviction"]["rule"] == "E3"), "{summary:#}");
    // Who comes later hears of the same, from what the replicas hold.
    let later = exofed(&["audit", &config, "--genesis", &genesis]);
    assert_eq!(later.status.code(), Some(2), "{}", stderr(&later));
    runtime.block_on(net.0.shutdown());
    stage.stop();
}
