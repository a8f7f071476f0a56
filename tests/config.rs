//! The presets under `config/` load, say what the program's defaults are, and mistakes are named with their place.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::{Path, PathBuf};

use exo_federation::config::{ClientFile, ClientOptions, HttpOptions, ReplicaFile, read_toml};
use exo_federation::consensus::CoreOptions;
use exo_federation::journal::JournalOptions;
use exo_federation::net::NetOptions;
use exo_federation::node::NodeOptions;
use exo_federation::store::StoreOptions;

fn preset(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("config").join(name)
}

#[test]
fn every_preset_loads_and_is_within_bounds() {
    let mut seen = 0;
    for entry in std::fs::read_dir(preset("")).unwrap() {
        let path = entry.unwrap().path();
        seen += 1;
        if path.file_name().unwrap() == "client.toml" {
            read_toml::<ClientFile>(&path).unwrap();
        } else {
            read_toml::<ReplicaFile>(&path).unwrap().validate(&path).unwrap();
        }
    }
    assert!(seen >= 4, "{seen} presets");
}

#[test]
fn the_default_presets_hold_every_key_at_its_default() {
    let written: toml::Table = std::fs::read_to_string(preset("default.toml")).unwrap().parse().unwrap();
    let same = |key: &str, default: toml::Table| assert_eq!(written[key].as_table(), Some(&default), "[{key}]");
    same("node", toml::Table::try_from(NodeOptions::default()).unwrap());
    same("consensus", toml::Table::try_from(CoreOptions::default()).unwrap());
    same("journal", toml::Table::try_from(JournalOptions::default()).unwrap());
    same("store", toml::Table::try_from(StoreOptions::default()).unwrap());
    same("net", toml::Table::try_from(NetOptions::default()).unwrap());
    same("http", toml::Table::try_from(HttpOptions::default()).unwrap());
    let written: toml::Table = std::fs::read_to_string(preset("client.toml")).unwrap().parse().unwrap();
    assert_eq!(written["client"].as_table(), Some(&toml::Table::try_from(ClientOptions::default()).unwrap()));
    assert_eq!(written["net"].as_table(), Some(&toml::Table::try_from(NetOptions::default()).unwrap()));
}

#[test]
fn mistakes_are_named_with_file_line_and_key() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("replica.toml");
    let text = std::fs::read_to_string(preset("local.toml")).unwrap();
    let refused = |text: &str| {
        std::fs::write(&path, text).unwrap();
        let read = read_toml::<ReplicaFile>(&path).and_then(|file| file.validate(&path));
        read.unwrap_err().to_string()
    };
    let unknown = refused(&text.replace("cache_bytes", "cash_bytes"));
    let line = text.lines().position(|l| l.starts_with("cache_bytes")).unwrap() + 1;
    assert!(unknown.contains("replica.toml") && unknown.contains(&format!("line {line}")) && unknown.contains("cash_bytes"), "{unknown}");
    let bounds = refused(&text.replace("cache_bytes = 8_388_608", "cache_bytes = 1"));
    assert!(bounds.contains("[store]") && bounds.contains("cache_bytes is 1"), "{bounds}");
    let kind = refused(&text.replace("votes_bytes = 1_048_576", "votes_bytes = \"much\""));
    assert!(kind.contains("votes_bytes"), "{kind}");
}
