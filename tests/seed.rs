//! The promises that this project began with, held by real replicas: four nodes in this process, real QUIC, real files.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::net::UdpSocket;
use std::sync::Arc;

use exo_federation::FederationError;
use exo_federation::consensus::CoreOptions;
use exo_federation::crypto::{ReplicaSecret, SigningKey};
use exo_federation::journal::JournalOptions;
use exo_federation::net::NetOptions;
use exo_federation::node::{CommitResult, Node, NodeConfig, NodeOptions};
use exo_federation::recovery::DataDir;
use exo_federation::store::StoreOptions;
use exo_federation::types::{Author, Federation, Genesis, Member, Parameters, PeerId, ProofQuery, StateUpdate, UpdateId, byzantine_threshold};

fn genesis(members: u8, author: &SigningKey) -> Genesis {
    let member = |i: u8| {
        let secret = ReplicaSecret::from_bytes([i + 1; 32]);
        Member {
            peer: PeerId(format!("peer{i}")),
            consensus_key: secret.consensus_key().public(),
            transport_key: secret.transport_key().public(),
            cosignature_key: secret.cosignature_key().public(),
        }
    };
    let authors = vec![Author { name: "author".into(), key: author.public() }];
    Genesis { name: "seed".into(), members: (0..members).map(member).collect(), authors, readers: vec![], parameters: Parameters::default() }
}

fn update(id: &str) -> StateUpdate {
    StateUpdate { update_id: UpdateId(id.into()), data: vec![1, 2, 3], timestamp: 1_000 }
}

async fn start(federation: &Arc<Federation>, home: &std::path::Path) -> Vec<Node> {
    let n = u8::try_from(federation.size()).unwrap();
    let sockets: Vec<UdpSocket> = (0..n).map(|_| UdpSocket::bind("127.0.0.1:0").unwrap()).collect();
    let addresses: Vec<String> = sockets.iter().map(|s| s.local_addr().unwrap().to_string()).collect();
    drop(sockets);
    let mut nodes = Vec::new();
    for i in 0..n {
        let data = DataDir(home.join(format!("peer{i}")));
        let journal = JournalOptions { segment_bytes: 1 << 20, votes_bytes: 1 << 20, ..JournalOptions::default() };
        data.create(federation, ReplicaSecret::from_bytes([i + 1; 32]).consensus_key().public(), &journal).unwrap();
        let config = NodeConfig {
            federation: federation.clone(),
            me: u16::from(i),
            secret: ReplicaSecret::from_bytes([i + 1; 32]),
            data,
            listen: addresses[usize::from(i)].parse().unwrap(),
            addresses: addresses.clone(),
            node: NodeOptions { submit_timeout_ms: 3_000, ..NodeOptions::default() },
            core: CoreOptions::default(),
            journal,
            store: StoreOptions::default(),
            net: NetOptions::default(),
        };
        nodes.push(Node::start(config, None).await.unwrap());
    }
    nodes
}

#[tokio::test(flavor = "multi_thread")]
async fn byzantine_commit_on_four_replicas_yields_a_proof_that_verifies() {
    let author = SigningKey::from_seed(&[42; 32]);
    let federation = Arc::new(Federation::new(genesis(4, &author)).unwrap());
    let home = tempfile::tempdir().unwrap();
    let nodes = start(&federation, home.path()).await;
    let handle = nodes[2].handle();
    let result = handle.byzantine_commit(&author, update("update-001")).await.unwrap();
    let CommitResult::Success(proof) = result else { panic!("{result:?}") };
    assert_eq!(proof.update_id().0, "update-001");
    let verified = proof.verify(&federation).unwrap();
    assert_eq!(verified.sequence, 1);
    assert!(verified.signers.len() >= byzantine_threshold(4));

    // A retry gets the first answer; another payload under the same id is a conflict, and nothing is appended.
    let CommitResult::Success(again) = handle.byzantine_commit(&author, update("update-001")).await.unwrap() else { panic!() };
    assert_eq!(again.leaf, proof.leaf);
    let other = StateUpdate { data: vec![9], ..update("update-001") };
    assert!(matches!(handle.byzantine_commit(&author, other).await, Err(FederationError::Answer { .. })));

    // Every replica serves the same proof, and its log as a stream.
    for node in &nodes {
        let mut updates = node.handle().subscribe(1);
        let entry = tokio::time::timeout(std::time::Duration::from_secs(20), updates.next()).await.unwrap().unwrap();
        assert_eq!((entry.sequence, entry.update), (1, update("update-001")));
        let query = ProofQuery::Id { update_id: UpdateId("update-001".into()), author: None };
        let served = node.handle().proof(query).await.unwrap().unwrap();
        assert_eq!(served.leaf, proof.leaf);
    }
    for node in nodes {
        node.stop().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_quorum_the_outcome_is_unknown_and_says_how_many_votes_were_had() {
    let author = SigningKey::from_seed(&[42; 32]);
    let federation = Arc::new(Federation::new(genesis(4, &author)).unwrap());
    let home = tempfile::tempdir().unwrap();
    let mut nodes = start(&federation, home.path()).await;
    for node in nodes.split_off(2) {
        node.stop().await.unwrap();
    }
    let result = nodes[0].handle().byzantine_commit(&author, update("lonely")).await.unwrap();
    let CommitResult::InsufficientPrepares { had, needed } = result else { panic!("{result:?}") };
    assert!(had < needed && needed == 3, "{had} of {needed}");
    for node in nodes {
        node.stop().await.unwrap();
    }
}

#[test]
fn three_peers_are_too_few() {
    let author = SigningKey::from_seed(&[42; 32]);
    let refused = Federation::new(genesis(3, &author)).map_err(FederationError::from).unwrap_err();
    assert!(matches!(refused, FederationError::InsufficientPeers { needed: 4, actual: 3 }), "{refused:?}");
}

#[test]
fn thresholds() {
    assert_eq!([4, 7, 10].map(byzantine_threshold), [3, 5, 7]);
}
