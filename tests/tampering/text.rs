//! Changes to a file's text: every field spelled otherwise, left out, repeated, moved or of another type, whatever the file is.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::json;

/// JSON whose fields keep their order and may stand twice, and whose tokens are any text.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Node {
    Token(String),
    List(Vec<Node>),
    Object(Vec<(String, Node)>),
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;
        impl<'de> Visitor<'de> for Any {
            type Value = Node;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a proof's or record's JSON")
            }

            fn visit_unit<E>(self) -> Result<Node, E> {
                Ok(Node::Token("null".into()))
            }

            fn visit_u64<E>(self, number: u64) -> Result<Node, E> {
                Ok(Node::Token(number.to_string()))
            }

            fn visit_str<E>(self, text: &str) -> Result<Node, E> {
                Ok(Node::Token(json!(text).to_string()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Node, A::Error> {
                let mut out = Vec::new();
                while let Some(element) = list.next_element()? {
                    out.push(element);
                }
                Ok(Node::List(out))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Node, A::Error> {
                let mut out = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    out.push(entry);
                }
                Ok(Node::Object(out))
            }
        }
        deserializer.deserialize_any(Any)
    }
}

impl Node {
    /// The canonical spelling, but for its tokens.
    fn print(&self) -> String {
        let mut out = String::new();
        self.write(&mut out, 0);
        out.push('\n');
        out
    }

    fn write(&self, out: &mut String, depth: usize) {
        let line = |out: &mut String, first: bool, depth: usize| {
            out.push_str(if first { "\n" } else { ",\n" });
            out.push_str(&"  ".repeat(depth));
        };
        match self {
            Self::Token(text) => out.push_str(text),
            Self::List(list) if list.is_empty() => out.push_str("[]"),
            Self::Object(entries) if entries.is_empty() => out.push_str("{}"),
            Self::List(list) => {
                out.push('[');
                for (at, element) in list.iter().enumerate() {
                    line(out, at == 0, depth + 1);
                    element.write(out, depth + 1);
                }
                line(out, true, depth);
                out.push(']');
            }
            Self::Object(entries) => {
                out.push('{');
                for (at, (name, value)) in entries.iter().enumerate() {
                    line(out, at == 0, depth + 1);
                    out.push_str(&format!("\"{name}\": "));
                    value.write(out, depth + 1);
                }
                line(out, true, depth);
                out.push('}');
            }
        }
    }

    fn children(&self) -> usize {
        match self {
            Self::Token(_) => 0,
            Self::List(list) => list.len(),
            Self::Object(entries) => entries.len(),
        }
    }

    fn child(&mut self, at: usize) -> &mut Self {
        match self {
            Self::Token(text) => panic!("{text} holds nothing"),
            Self::List(list) => &mut list[at],
            Self::Object(entries) => &mut entries[at].1,
        }
    }

    fn at(&mut self, path: &[usize]) -> &mut Self {
        path.iter().fold(self, |node, at| node.child(*at))
    }

    /// The way to every node below this one and to itself.
    fn paths(&mut self) -> Vec<Vec<usize>> {
        let mut out = vec![vec![]];
        for at in 0..self.children() {
            out.extend(self.child(at).paths().into_iter().map(|path| [vec![at], path].concat()));
        }
        out
    }

    /// What may stand in its place and is wrong there, or is another spelling of the same.
    fn replacements(&self) -> Vec<Self> {
        let tokens = |list: &[&str]| list.iter().map(|token| Self::Token((*token).to_owned())).collect::<Vec<_>>();
        let mut out = tokens(&["null", "true", "false", "0", "\"\"", "[]", "{}", ""]);
        match self {
            Self::Token(text) if text.starts_with('"') => out.extend(spelled_strings(text).into_iter().map(Self::Token)),
            Self::Token(text) if text.starts_with(|c: char| c.is_ascii_digit()) => out.extend(spelled_numbers(text).into_iter().map(Self::Token)),
            Self::Token(_) => out.extend(tokens(&["Null", "None", "NaN"])),
            Self::List(list) => {
                out.extend(rearranged(list).into_iter().map(Self::List));
                out.push(Self::Object(list.iter().enumerate().map(|(at, value)| (at.to_string(), value.clone())).collect()));
            }
            Self::Object(entries) => {
                out.extend(rearranged(entries).into_iter().map(Self::Object));
                out.push(Self::List(entries.iter().map(|(_, value)| value.clone()).collect()));
                let extra = || vec![("extra".to_owned(), Self::Token("1".into()))];
                out.extend([[extra(), entries.clone()].concat(), [entries.clone(), extra()].concat()].map(Self::Object));
                for at in 0..entries.len() {
                    let mut renamed = entries.clone();
                    renamed[at].0 = renamed[at].0.to_uppercase();
                    out.push(Self::Object(renamed));
                    let mut escaped = entries.clone();
                    escaped[at].0 = format!("\\u{:04x}{}", u32::from(escaped[at].0.as_bytes()[0]), &escaped[at].0[1..]);
                    out.push(Self::Object(escaped));
                }
            }
        }
        out.push(Self::List(vec![self.clone()]));
        out
    }
}

fn spelled_numbers(text: &str) -> Vec<String> {
    let number: u64 = text.parse().unwrap();
    let near = [number.wrapping_add(1), number.wrapping_sub(1), number ^ 2, u64::MAX, u64::MAX - 1, u64::from(u32::MAX) + 1, 1 << 56];
    let forms = ["-{}", "-0", "+{}", "0{}", "{}.0", "{}.", "{}e0", "{}E0", "{}e-0", "0x{}", " {}", "{} ", "\"{}\"", "{}_0", "{}L"];
    let large = ["18446744073709551616", "340282366920938463463374607431768211456", "1e400", "NaN", "Infinity", "-1"];
    let huge = "9".repeat(5000);
    let spelled = forms.iter().map(|form| form.replace("{}", text));
    near.iter().map(u64::to_string).chain(spelled).chain(large.map(str::to_owned)).chain([huge]).collect()
}

fn spelled_strings(text: &str) -> Vec<String> {
    let inner = &text[1..text.len() - 1];
    let Some(first) = inner.chars().next() else { return vec!["\"x\"".into()] };
    let rest = &inner[first.len_utf8()..];
    let middle = (0..=inner.len() / 2).rev().find(|at| inner.is_char_boundary(*at)).unwrap();
    let (left, right) = inner.split_at(middle);
    let forms = [
        inner.to_uppercase(),
        inner.replace(['a', 'b', 'c'], "d"),
        format!("{}{rest}", if first == '0' { '1' } else { '0' }),
        rest.to_owned(),
        format!("{inner}0"),
        format!("{inner}00"),
        format!("0x{inner}"),
        format!(" {inner}"),
        format!("{inner} "),
        format!("{left} {right}"),
        format!("{left}\\n{right}"),
        format!("{left}\n{right}"),
        format!("{left}\\u0000{right}"),
        format!("{left}\u{0}{right}"),
        format!("{left}\\ud800{right}"),
        format!("{left}\\udc00\\ud800{right}"),
        format!("{left}\\ud83c\\udf89{right}"),
        format!("{left}\u{ff11}{right}"),
        format!("{left}\\/{right}"),
        format!("{left}\\x41{right}"),
        format!("\\u{:04x}{rest}", u32::from(first)),
        format!("\\u{:04X}{rest}", u32::from(first)),
        "0".repeat(inner.len()),
        "f".repeat(inner.len()),
        inner.chars().rev().collect(),
    ];
    let quoted = forms.iter().map(|form| format!("\"{form}\""));
    quoted.chain([inner.to_owned(), format!("'{inner}'"), format!("\"{inner}"), format!("b{text}")]).collect()
}

/// Each element left out, doubled, and exchanged with the next; all reversed; none.
fn rearranged<T: Clone>(list: &[T]) -> Vec<Vec<T>> {
    let mut out = vec![list.iter().rev().cloned().collect()];
    for at in 0..list.len() {
        let (before, after) = list.split_at(at);
        out.push([before, &after[1..]].concat());
        out.push([before, &after[..1], after].concat());
        out.push([list, &after[..1]].concat());
        if after.len() > 1 {
            out.push([before, &[after[1].clone(), after[0].clone()], &after[2..]].concat());
        }
    }
    out
}

/// Changes to the text as a whole.
fn wholes(text: &str) -> Vec<Vec<u8>> {
    let joined = |parts: &[&str]| parts.concat().into_bytes();
    let utf16 = |start: &[u8]| [start, &text.encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<_>>()].concat();
    let mut out = vec![
        joined(&[text, "\n"]),
        joined(&[text, " "]),
        joined(&[text, "\t\r"]),
        joined(&[text, "\u{b}"]),
        joined(&[text, "\u{a0}"]),
        joined(&[text, "\u{0}"]),
        joined(&[text, text]),
        joined(&[text, "{}"]),
        joined(&[text, "// more"]),
        joined(&["\u{feff}", text]),
        joined(&[" \n", text]),
        joined(&["[", text, "]"]),
        joined(&[text.trim_end()]),
        text.replace('\n', "\r\n").into_bytes(),
        text.replace('\n', "\u{c}").into_bytes(),
        text.replace("  ", "\t").into_bytes(),
        text.replace("  ", "    ").into_bytes(),
        text.replace("\": ", "\" : ").into_bytes(),
        text.replace(",\n", ",,\n").into_bytes(),
        text.replace("\n}", ",\n}").into_bytes(),
        serde_json::from_str::<serde_json::Value>(text).unwrap().to_string().into_bytes(),
        "[".repeat(100_000).into_bytes(),
        format!("{}{}", "[".repeat(5_000), "]".repeat(5_000)).into_bytes(),
        text.replacen('{', &format!("{{\"extra\": {}1{},", "[".repeat(3_000), "]".repeat(3_000)), 1).into_bytes(),
        joined(&["null"]),
        joined(&["\"\""]),
        joined(&["{}"]),
        vec![],
        utf16(&[]),
        utf16(&[0xff, 0xfe]),
        [b"\xef\xbb\xbf", text.as_bytes()].concat(),
        [text.as_bytes(), b"\xff"].concat(),
        text.replacen("exo", "\u{0}exo", 1).into_bytes(),
    ];
    out.extend((1..40).map(|part| text.as_bytes()[..text.len() * part / 40].to_vec()));
    out
}

/// Every one of these changes to a file.
pub(crate) fn spellings(text: &[u8]) -> Vec<Vec<u8>> {
    let text = std::str::from_utf8(text).unwrap();
    let mut document: Node = serde_json::from_str(text).unwrap();
    assert_eq!(document.print(), text, "only what is changed differs");
    let mut out = wholes(text);
    for path in document.paths() {
        let node = document.at(&path).clone();
        for replacement in node.replacements() {
            *document.at(&path) = replacement;
            out.push(document.print().into_bytes());
        }
        *document.at(&path) = node;
    }
    out
}

/// A fixed sequence of numbers (`SplitMix64`).
pub(crate) struct Draw(pub(crate) u64);

impl Draw {
    pub(crate) fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((z ^ (z >> 31)) % limit as u64).unwrap()
    }
}

/// `count` files with a node taken from one of them, or a byte changed at random.
pub(crate) fn splices(texts: &[Vec<u8>], draw: &mut Draw, count: usize) -> Vec<Vec<u8>> {
    let mut documents: Vec<Node> = texts.iter().map(|text| serde_json::from_slice(text).unwrap()).collect();
    let paths: Vec<Vec<Vec<usize>>> = documents.iter_mut().map(Node::paths).collect();
    let mut one = |draw: &mut Draw| {
        let to = draw.below(texts.len());
        if draw.below(3) == 0 {
            let mut text = texts[to].clone();
            let at = draw.below(text.len());
            text[at] = u8::try_from(draw.below(256)).unwrap();
            return text;
        }
        // From the same place of another file, or from anywhere.
        let (from, path) = (draw.below(texts.len()), &paths[to][draw.below(paths[to].len())]);
        let same = draw.below(2) == 0 && paths[from].contains(path);
        let source = if same { path } else { &paths[from][draw.below(paths[from].len())] };
        let part = documents[from].at(source).clone();
        let mut changed = documents[to].clone();
        *changed.at(path) = part;
        changed.print().into_bytes()
    };
    (0..count).map(|_| one(draw)).collect()
}
