//! A key-value store on a federation: four replicas in this process, each folding the log into a map of its own.
//!
//! `cargo run --release --example key_value`

use std::collections::BTreeMap;
use std::net::UdpSocket;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use exo_federation::consensus::CoreOptions;
use exo_federation::crypto::{ReplicaSecret, SigningKey};
use exo_federation::journal::JournalOptions;
use exo_federation::net::NetOptions;
use exo_federation::node::{CommitResult, LogEntry, Node, NodeConfig, NodeOptions, StateMachine};
use exo_federation::recovery::DataDir;
use exo_federation::store::StoreOptions;
use exo_federation::types::{Author, Federation, Genesis, Member, Parameters, PeerId, StateUpdate, UpdateId};

type Map = Arc<Mutex<BTreeMap<String, String>>>;

/// Updates are `key=value`; an update without a `=` removes the key.
struct KeyValue(Map);

impl StateMachine for KeyValue {
    fn apply(&mut self, entry: &LogEntry) {
        let Ok(mut map) = self.0.lock() else { return };
        let text = String::from_utf8_lossy(&entry.update.data).into_owned();
        match text.split_once('=') {
            Some((key, value)) => drop(map.insert(key.to_owned(), value.to_owned())),
            None => drop(map.remove(&text)),
        }
    }
}

fn member(index: usize, secret: &ReplicaSecret) -> Member {
    Member {
        peer: PeerId(format!("replica-{index}")),
        consensus_key: secret.consensus_key().public(),
        transport_key: secret.transport_key().public(),
        cosignature_key: secret.cosignature_key().public(),
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let home = tempfile::tempdir()?;
    let author = SigningKey::generate()?;
    let secrets = (0..4).map(|_| ReplicaSecret::generate()).collect::<Result<Vec<_>, _>>()?;
    let federation = Arc::new(Federation::new(Genesis {
        name: "key-value".into(),
        members: secrets.iter().enumerate().map(|(i, secret)| member(i, secret)).collect(),
        authors: vec![Author { name: "author".into(), key: author.public() }],
        readers: vec![],
        parameters: Parameters::default(),
    })?);
    let sockets = (0..4).map(|_| UdpSocket::bind("127.0.0.1:0")).collect::<Result<Vec<_>, _>>()?;
    let addresses = sockets.iter().map(|s| Ok(s.local_addr()?.to_string())).collect::<Result<Vec<_>, std::io::Error>>()?;
    drop(sockets);

    let (mut nodes, mut maps) = (Vec::new(), Vec::new());
    for (me, secret) in (0u16..).zip(secrets) {
        let data = DataDir(home.path().join(format!("replica-{me}")));
        data.create(&federation, secret.consensus_key().public(), &JournalOptions::default())?;
        let map = Map::default();
        let config = NodeConfig {
            federation: federation.clone(),
            me,
            secret,
            data,
            listen: addresses[usize::from(me)].parse()?,
            addresses: addresses.clone(),
            node: NodeOptions::default(),
            core: CoreOptions::default(),
            journal: JournalOptions::default(),
            store: StoreOptions::default(),
            net: NetOptions::default(),
        };
        nodes.push(Node::start(config, Some(Box::new(KeyValue(map.clone())))).await?);
        maps.push(map);
    }

    for (id, text) in [("1", "colour=green"), ("2", "shape=round"), ("3", "colour=blue"), ("4", "shape")] {
        let update = StateUpdate { update_id: UpdateId(id.into()), data: text.into(), timestamp: 0 };
        if let CommitResult::Success(proof) = nodes[0].handle().byzantine_commit(&author, update).await? {
            let signers = proof.verify(&federation)?.signers;
            println!("{text:<14} is entry {} of the log, committed by {signers:?}", proof.leaf.sequence);
        }
    }
    for (node, map) in nodes.iter().zip(&maps) {
        let expected = BTreeMap::from([("colour".to_owned(), "blue".to_owned())]);
        while map.lock().is_ok_and(|map| *map != expected) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        println!("{} holds {expected:?}", node.handle().status().peer);
    }
    for node in nodes {
        node.stop().await?;
    }
    Ok(())
}
