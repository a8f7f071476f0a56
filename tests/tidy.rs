//! The rules of ARCHITECTURE.md, held against the source.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

fn sources(dir: &Path, out: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, out);
        } else if path.extension().is_some_and(|e| e == "rs") {
            out.push(path);
        }
    }
}

fn all() -> Vec<(PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut paths = Vec::new();
    sources(&root, &mut paths);
    paths.into_iter().map(|path| (path.strip_prefix(&root).unwrap().to_path_buf(), std::fs::read_to_string(&path).unwrap())).collect()
}

fn is_test(path: &Path) -> bool {
    path.components().any(|c| c.as_os_str() == "tests" || c.as_os_str() == "tests.rs")
}

/// The modules that a file names behind `crate::`, in `use` groups too.
fn imports(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (at, _) in text.match_indices("crate::") {
        let rest = &text[at + "crate::".len()..];
        let name: String = rest.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
        if !name.is_empty() {
            found.push(name);
        }
    }
    found
}

#[test]
fn imports_go_one_way() {
    let allowed: BTreeMap<&str, &[&str]> = BTreeMap::from([
        ("crypto", &[][..]),
        ("types", &["crypto"]),
        ("proof", &["types", "crypto"]),
        ("consensus", &["types", "crypto", "proof"]),
        ("failpoint", &[]),
        ("planted", &[]),
        ("journal", &["failpoint", "types", "crypto", "proof"]),
        ("store", &["failpoint", "types", "crypto", "proof"]),
        ("net", &["types", "crypto"]),
        ("recovery", &["failpoint", "journal", "store", "consensus", "proof", "types", "crypto"]),
        ("config", &["consensus", "crypto", "journal", "net", "node", "recovery", "store", "types"]),
        ("node", &["failpoint", "recovery", "journal", "store", "consensus", "proof", "net", "types", "crypto", "error"]),
        ("client", &["config", "net", "proof", "types", "crypto", "error"]),
        ("export", &["audit", "client", "consensus", "crypto", "error", "journal", "proof", "recovery", "types"]),
        ("api", &["config", "node", "proof", "types", "crypto", "error"]),
        ("process", &["failpoint", "recovery"]),
        ("bench", &["audit", "client", "config", "crypto", "error", "journal", "net", "process", "proof", "types"]),
        (
            "crash_test",
            &["audit", "client", "config", "consensus", "crypto", "error", "failpoint", "journal", "process", "proof", "recovery", "types"],
        ),
        ("sim", &["consensus", "crypto", "journal", "node", "proof", "recovery", "store", "types"]),
        ("audit", &["client", "config", "journal", "store", "proof", "consensus", "types", "crypto", "error", "recovery"]),
    ]);
    for (path, text) in all() {
        let module = path.components().next().unwrap().as_os_str().to_str().unwrap().trim_end_matches(".rs").to_owned();
        let Some(allowed) = allowed.get(module.as_str()) else { continue };
        if is_test(&path) {
            continue;
        }
        for import in imports(&text) {
            // Planted bugs may be anywhere, and know nothing.
            assert!(import == module || import == "planted" || allowed.contains(&import.as_str()), "src/{} imports crate::{import}", path.display());
        }
    }
}

#[test]
fn the_core_knows_no_runtime_file_socket_clock_or_random_source() {
    for (path, text) in all().into_iter().filter(|(path, _)| path.starts_with("consensus") && !is_test(path)) {
        let code: String = text.lines().filter(|l| !l.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n");
        for word in
            ["tokio", "sled", "quinn", "rustls", "std::time", "Instant", "SystemTime", "getrandom", "random", "std::fs", "std::net", "std::thread"]
        {
            assert!(!code.contains(word), "src/{} mentions {word}", path.display());
        }
        // The constructor hands the key to its holder; nobody else keeps or uses one.
        let holds = code.contains(": SigningKey,\n") && !code.contains("Safety::new(federation.clone(), me, key, suspect)");
        assert!(!holds || path.ends_with("safety.rs"), "src/{} holds a signing key", path.display());
        assert!(!code.contains(".sign(") || path.ends_with("safety.rs"), "src/{} signs", path.display());
    }
}

#[test]
fn files_stay_readable() {
    for (path, text) in all() {
        let lines = text.lines().count();
        assert!(lines <= 800, "src/{} has {lines} lines", path.display());
        assert!(!text.contains("todo!(") && !text.contains("unimplemented!("), "src/{} holds a stub", path.display());
    }
}
