//! Rules of the house that privacy cannot keep. Each message says what to do instead; ARCHITECTURE.md says why.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// A file of the source: its path from the top of the repository, and its lines.
struct File {
    path: String,
    lines: Vec<String>,
}

/// A line of code: not a comment, and in `src` not in a test.
struct Line<'a> {
    file: &'a str,
    number: usize,
    text: &'a str,
}

#[test]
fn the_domain_knows_no_transport() {
    let crates = ["axum", "tonic", "prost", "tower", "hyper", "http_body"];
    // A module of the domain has this name too, so the crate is told by how it is named.
    let http = ["use http::", "http::StatusCode", "http::HeaderMap", "http::HeaderValue", "http::Method", "http::Uri"];
    let bad = offences("src/domain", |text| {
        crates.iter().any(|name| names_crate(text, name)) || http.iter().any(|path| text.contains(path))
    });
    none(&bad, "src/domain names a transport: say it without one, and let src/rest and src/grpc translate");
}

#[test]
fn the_doors_do_not_know_each_other() {
    let rest = offences("src/rest", |text| {
        text.contains("grpc::") || ["tonic", "prost"].iter().any(|name| names_crate(text, name))
    });
    none(&rest, "src/rest names the other door: what both need belongs in src/domain");
    let grpc = offences("src/grpc", |text| text.contains("rest::") || names_crate(text, "utoipa"));
    none(&grpc, "src/grpc names the other door: what both need belongs in src/domain");
}

#[test]
fn only_the_store_speaks_sql() {
    let words = ["SELECT ", "INSERT INTO ", "INSERT OR ", "DELETE FROM ", "CREATE TABLE", "CREATE INDEX", "PRAGMA "];
    let bad = offences("src", |text| {
        // The verbs hand closures to the store, whose answers have this type.
        let rest = text.replace("rusqlite::Result<", "");
        words.iter().any(|word| rest.contains(word)) || names_crate(&rest, "rusqlite")
    });
    let bad = bad.into_iter().filter(|offence| !offence.starts_with("src/domain/store/")).collect::<Vec<_>>();
    none(&bad, "SQL outside of src/domain/store: give the store a function with a name, and call that");
}

#[test]
fn only_the_config_reads_the_environment() {
    let reads = ["env::var(", "env::var_os(", "env::vars", "env::args", "home_dir(", "env::current_dir(", "temp_dir("];
    let bad = offences("src", |text| reads.iter().any(|read| text.contains(read)));
    let bad = bad.into_iter().filter(|offence| !offence.starts_with("src/config.rs:")).collect::<Vec<_>>();
    none(&bad, "the environment is read in src/config.rs alone: make a setting there and pass its value down");
}

#[test]
fn no_file_is_over_400_lines() {
    let files = files("src").into_iter().chain(files("tests"));
    let long = files.filter(|file| file.lines.len() > 400);
    let bad = long.map(|file| format!("{}: {} lines", file.path, file.lines.len())).collect::<Vec<_>>();
    none(&bad, "a file of 400 lines is two files: look for the part that the rest only calls");
}

#[test]
fn nothing_is_assumed() {
    let bad = offences("src", |text| text.contains(".unwrap()") || text.contains(".expect("));
    none(
        &bad,
        "unwrap and expect end the request of whoever is there: answer an error (`Error::internal` has a cause)",
    );
}

#[test]
fn nothing_is_left_for_later() {
    let macros = ["todo", "unimplemented", "dbg"].map(|name| format!("{name}!"));
    let ignored = format!("#[{}", "ignore");
    let bad = files("src").into_iter().chain(files("tests")).flat_map(|file| {
        let left = |line: &&(usize, &String)| {
            line.1.contains(&ignored) || macros.iter().any(|name| line.1.contains(&format!("{name}(")))
        };
        let lines: Vec<_> = file.lines.iter().enumerate().collect();
        let bad = lines.iter().filter(left).map(|(at, line)| format!("{}:{}: {}", file.path, at + 1, line.trim()));
        bad.collect::<Vec<_>>()
    });
    none(&bad.collect::<Vec<_>>(), "finish it, or leave it out and file an issue");
}

#[test]
fn no_module_is_a_drawer() {
    let drawers = ["util", "utils", "types", "helper", "helpers", "common", "service", "services", "misc"];
    let named = |path: &str| Path::new(path).iter().any(|part| drawers.contains(&stem(&part.to_string_lossy())));
    let files = files("src").into_iter().map(|file| file.path).filter(|path| named(path));
    let inline = offences("src", |text| {
        let name = text.split("mod ").nth(1).and_then(|rest| rest.split([' ', ';', '{']).next());
        name.is_some_and(|name| drawers.contains(&name))
    });
    none(
        &files.chain(inline).collect::<Vec<_>>(),
        "name a module by what it is about: a drawer takes anything, and nobody looks there",
    );
}

/// Whether a path of this line begins with the crate, or one of its family: `tower` is `tower_http` too.
fn names_crate(text: &str, name: &str) -> bool {
    let is_word = |letter: char| letter.is_alphanumeric() || letter == '_';
    text.match_indices("::").any(|(at, _)| {
        let first = text[..at].rfind(|letter| !is_word(letter)).map_or(0, |before| before + 1);
        let word = &text[first..at];
        let is_inside = text[..first].strip_suffix("::").is_some_and(|path| path.ends_with(is_word));
        !is_inside && (word == name || word.strip_prefix(name).is_some_and(|rest| rest.starts_with('_')))
    })
}

#[test]
fn crates_are_told_from_modules() {
    for (text, is_crate) in [
        ("use tower::Service;", true),
        ("use {tower_http::cors, tower::util};", true),
        ("    let x: ::tower::BoxError;", true),
        ("fn f(x: &tower::util::Either<A, B>)", true),
        ("use super::tower::wall;", false),
        ("use self::watchtower::Wall;", false),
        ("towers::count()", false),
    ] {
        assert_eq!(names_crate(text, "tower"), is_crate, "{text}");
    }
}

/// `path:line: text` of each line of code below `folder` that is bad.
fn offences(folder: &str, bad: impl Fn(&str) -> bool) -> Vec<String> {
    let files = files(folder);
    let lines = files.iter().flat_map(code);
    lines
        .filter(|line| bad(line.text))
        .map(|line| format!("{}:{}: {}", line.file, line.number, line.text.trim()))
        .collect()
}

/// The lines of code: no comments, and no items under `#[cfg(test)]`, which end with a brace in the first column.
fn code(file: &File) -> Vec<Line<'_>> {
    let mut lines = Vec::new();
    let mut in_test = false;
    for (at, text) in file.lines.iter().enumerate() {
        if text == "#[cfg(test)]" {
            in_test = true;
        } else if in_test {
            in_test = !(text.starts_with('}') || text.starts_with("mod ") && text.ends_with(';'));
        } else if !text.trim_start().starts_with("//") {
            lines.push(Line { file: &file.path, number: at + 1, text });
        }
    }
    lines
}

/// All Rust files below a folder of the repository.
fn files(folder: &str) -> Vec<File> {
    let top = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (mut files, mut folders) = (Vec::new(), vec![top.join(folder)]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            let path: PathBuf = entry.path();
            if path.is_dir() {
                // Packages of others, put there by npm.
                if !path.ends_with("node_modules") {
                    folders.push(path);
                }
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).unwrap_or_default();
                let path = path.strip_prefix(top).unwrap_or(&path).to_string_lossy().into_owned();
                files.push(File { path, lines: text.lines().map(str::to_owned).collect() });
            }
        }
    }
    assert!(!files.is_empty(), "no Rust file is below {folder}: a rule about nothing is always kept");
    files.sort_by(|a, b| a.path.cmp(&b.path));
    files
}

fn stem(name: &str) -> &str {
    name.strip_suffix(".rs").unwrap_or(name)
}

fn none(bad: &[String], what_to_do: &str) {
    assert!(bad.is_empty(), "{what_to_do}:\n  {}", bad.join("\n  "));
}
