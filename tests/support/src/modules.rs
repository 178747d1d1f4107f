//! Which modules of a crate use each other in a circle.
//!
//! A module may use what is above and below it; of modules that are beside each other one uses the
//! other, and not the other way round. For each path `crate::…`, `super::…` and `self::…` in a
//! file, the module of the file and the module that the path names give an edge between the two
//! modules below their nearest common ancestor. Code under `#[cfg(test)]` does not count.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::Path;

/// A module, as the names from the crate's root to it; the root has none.
type Module = Vec<String>;

/// The source text of each module of a crate.
pub type Sources = BTreeMap<Vec<String>, String>;

/// Reads the modules of a crate from its folder `src`; programs below `src/bin` are crates of their own.
///
/// # Errors
///
/// When a file cannot be read.
pub fn sources(src: &Path) -> io::Result<Sources> {
    let mut found = Sources::new();
    collect(src, &mut Vec::new(), &mut found)?;
    Ok(found)
}

fn collect(folder: &Path, module: &mut Module, found: &mut Sources) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        if path.is_dir() {
            if stem == "tests" || module.is_empty() && stem == "bin" {
                continue;
            }
            module.push(stem);
            collect(&path, module, found)?;
            module.pop();
        } else if path.extension().is_some_and(|extension| extension == "rs") && stem != "tests" {
            let mut name = module.clone();
            if !["mod", "lib", "main"].contains(&stem.as_str()) {
                name.push(stem);
            }
            found.entry(name).or_default().push_str(&fs::read_to_string(&path)?);
        }
    }
    Ok(())
}

/// The circles of a crate: of each, the modules that use each other, as paths.
#[must_use]
pub fn circles(sources: &Sources) -> Vec<Vec<String>> {
    let mut edges: BTreeMap<Module, BTreeSet<Module>> = BTreeMap::new();
    for (module, text) in sources {
        for path in paths(&without_tests(text)) {
            let Some(used) = resolve(module, &path, sources) else { continue };
            let common = module.iter().zip(&used).take_while(|(a, b)| a == b).count();
            if common < module.len() && common < used.len() {
                edges.entry(module[..=common].to_vec()).or_default().insert(used[..=common].to_vec());
            }
        }
    }
    components(&edges)
}

/// Everything before the tests of a file, without comments and texts.
fn without_tests(text: &str) -> String {
    let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    let mut out = String::new();
    for line in code.lines() {
        let line = line.split("//").next().unwrap_or_default();
        // Every second part of a line is inside of quotes.
        line.split('"').step_by(2).for_each(|part| out.push_str(part));
        out.push('\n');
    }
    out
}

/// Words, `::`, braces and other characters of a text.
fn tokens(text: &str) -> Vec<&str> {
    let mut tokens = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let word = rest.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(rest.len());
        let length = match first {
            _ if word > 0 => word,
            ':' if rest.starts_with("::") => 2,
            _ => first.len_utf8(),
        };
        if !first.is_whitespace() {
            tokens.push(&rest[..length]);
        }
        rest = &rest[length..];
    }
    tokens
}

/// All paths that begin with `crate`, `super` or `self`, those of a group one by one.
fn paths(text: &str) -> Vec<Module> {
    let tokens = tokens(text);
    let mut found = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        let begins = ["crate", "super", "self"].contains(&tokens[at]) && tokens.get(at + 1) == Some(&"::");
        let behind = at > 0 && tokens[at - 1] == "::";
        at = if begins && !behind { tree(&tokens, at, &[], &mut found) } else { at + 1 };
    }
    found
}

/// Takes the path at `at`, with the groups in it; returns what is behind it.
fn tree(tokens: &[&str], mut at: usize, before: &[String], found: &mut Vec<Module>) -> usize {
    let mut path = before.to_vec();
    loop {
        match tokens.get(at) {
            Some(&"{") => {
                at += 1;
                while tokens.get(at).is_some_and(|token| *token != "}") {
                    at = if tokens[at] == "," { at + 1 } else { tree(tokens, at, &path, found) };
                }
                return at + 1;
            }
            Some(word) if word.starts_with(|c: char| c.is_alphanumeric() || c == '_') => {
                path.push((*word).to_owned());
                at += 1;
            }
            _ => at += 1,
        }
        if tokens.get(at) != Some(&"::") {
            break;
        }
        at += 1;
    }
    found.push(path);
    // A new name for it: `a::b as c`.
    if tokens.get(at) == Some(&"as") { at + 2 } else { at }
}

/// The module that a path in `module` names, or that the item which it names is in.
fn resolve(module: &[String], path: &[String], sources: &Sources) -> Option<Module> {
    let mut from = module.to_vec();
    let mut used = match path.first()?.as_str() {
        "crate" => Vec::new(),
        "self" => from.clone(),
        _ => {
            from.pop()?;
            from.clone()
        }
    };
    for name in &path[1..] {
        if name == "super" {
            used.pop()?;
            continue;
        }
        used.push(name.clone());
        if !sources.contains_key(&used) && !sources.keys().any(|module| module.starts_with(&used)) {
            used.pop();
            break;
        }
    }
    Some(used)
}

/// Groups of modules each of which can be reached from each other one.
fn components(edges: &BTreeMap<Module, BTreeSet<Module>>) -> Vec<Vec<String>> {
    let reachable: BTreeMap<&Module, BTreeSet<&Module>> =
        edges.keys().map(|module| (module, reached(module, edges))).collect();
    let mut found: BTreeSet<Vec<String>> = BTreeSet::new();
    for (module, reached) in &reachable {
        if reached.contains(module) {
            let group = reached
                .iter()
                .filter(|other| reachable.get(*other).is_some_and(|others| others.contains(module)));
            found.insert(group.map(|module| module.join("::")).collect());
        }
    }
    found.into_iter().collect()
}

fn reached<'a>(module: &Module, edges: &'a BTreeMap<Module, BTreeSet<Module>>) -> BTreeSet<&'a Module> {
    let mut found = BTreeSet::new();
    let mut next: Vec<&Module> = edges.get(module).into_iter().flatten().collect();
    while let Some(module) = next.pop() {
        if found.insert(module) {
            next.extend(edges.get(module).into_iter().flatten());
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(files: &[(&str, &str)]) -> Sources {
        let module =
            |name: &str| name.split("::").filter(|part| !part.is_empty()).map(str::to_owned).collect();
        files.iter().map(|(name, text)| (module(name), (*text).to_owned())).collect()
    }

    #[test]
    fn a_circle_is_found_whatever_its_length_and_form() {
        let two =
            made(&[("", "mod a; mod b;"), ("a", "use crate::b::Thing;"), ("b", "fn f() { super::a::g() }")]);
        assert_eq!(circles(&two), [["a", "b"]]);
        let three = made(&[
            ("a", "use crate::{x::Y, b::{self, C}};"),
            ("b", "fn f(c: crate::c::C<u8>) {}"),
            ("c::d", "use super::super::a::G as H;"),
        ]);
        assert_eq!(circles(&three), [["a", "b", "c"]]);
        let below = made(&[("a::b", "use super::{c, d};"), ("a::c", "use crate::a::b;"), ("a::d", "")]);
        assert_eq!(circles(&below), [["a::b", "a::c"]]);
    }

    #[test]
    fn parents_children_tests_and_words_are_no_circle() {
        let tree = made(&[
            ("", "use self::a::A; use a::B;"),
            ("a", "use self::b::B; use crate::c::C;"),
            ("a::b", "use super::A; use crate::a::A; use crate::Error;"),
            (
                "c",
                "// use crate::a;\n//! [`crate::a`]\nfn f() -> &str { \"crate::a::A\" }\n#[cfg(test)]\nmod tests {\nuse crate::a::A;\n}",
            ),
        ]);
        assert_eq!(circles(&tree), Vec::<Vec<String>>::new());
    }

    #[test]
    fn no_crate_of_the_workspace_has_a_circle() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let crates = ["parser", "engine/image", "engine/core", "engine/drive", "inspector", "simulator"];
        let more = ["tests", "tests/support", "engine/streams", "simulator/background-snapshot"];
        let mut found = Vec::new();
        for name in crates.iter().chain(&more) {
            let sources = sources(&root.join(name).join("src")).expect("the sources of a crate");
            assert!(!sources.is_empty(), "{name}");
            found.extend(circles(&sources).into_iter().map(|circle| ((*name).to_owned(), circle)));
        }
        assert!(found.is_empty(), "modules that use each other in a circle: {found:?}");
    }
}
