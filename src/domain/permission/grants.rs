//! Grants: what a client has allowed until the session is reset, and no more than it was shown.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{
    shell::{Line, Part},
    word::Word,
};

/// What was allowed for the session.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct Grant {
    pub(crate) tool: String,
    pub(crate) what: Granted,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Granted {
    /// A command that has these words; `open` if more may follow.
    Words { words: Vec<String>, open: bool },
    /// Just this line.
    Line(String),
    /// Just this path.
    Path(String),
}

/// Commands whose first word says what they do, so that it and any words behind it are one thing to allow. What runs
/// whatever it is told (shells, interpreters, wrappers) may never be here.
const WITH_SUBCOMMANDS: [&str; 14] = [
    "cargo", "go", "npm", "pnpm", "yarn", "make", "mvn", "gradle", "pip", "uv", "poetry", "dotnet", "bundle", "rustup",
];
/// The same of git; its settings and its hooks can run anything.
const GIT: [&str; 8] = ["add", "commit", "checkout", "switch", "restore", "stash", "fetch", "pull"];
/// Subcommands that run what their words say.
const RUNNING: [&str; 8] = ["exec", "run", "x", "dlx", "create", "init", "tool", "config"];

/// What may be granted of the parts of a line that were asked for.
pub(crate) fn of_parts(tool: &str, line: &Line) -> Vec<Grant> {
    let mut grants: Vec<Grant> = Vec::new();
    for part in &line.parts {
        let words: Option<Vec<String>> = exact(part);
        let what = match (prefix(part), words) {
            (Some(words), _) => Granted::Words { words, open: true },
            (None, Some(words)) => Granted::Words { words, open: false },
            // What is only known when it runs is no pattern.
            (None, None) => return Vec::new(),
        };
        let grant = Grant { tool: tool.to_owned(), what };
        if !grants.contains(&grant) {
            grants.push(grant);
        }
    }
    grants
}

/// A line as it stands.
pub(crate) fn of_line(tool: &str, line: &str) -> Vec<Grant> {
    vec![Grant { tool: tool.to_owned(), what: Granted::Line(line.to_owned()) }]
}

/// A path as it stands, behind all links.
pub(crate) fn of_path(tool: &str, paths: &[PathBuf]) -> Vec<Grant> {
    let name = |path: &PathBuf| Grant { tool: tool.to_owned(), what: Granted::Path(path.display().to_string()) };
    paths.last().map(name).into_iter().collect()
}

/// The grants as one text, which is all that they allow.
pub(crate) fn shown(grants: &[Grant]) -> String {
    let texts: Vec<String> = grants
        .iter()
        .map(|grant| match &grant.what {
            Granted::Words { words, open } => {
                let words: Vec<String> = words.iter().map(|word| quoted(word)).collect();
                format!("{}{}", words.join(" "), if *open { " *" } else { "" })
            }
            Granted::Line(text) | Granted::Path(text) => text.clone(),
        })
        .collect();
    texts.join(" && ")
}

impl Grant {
    /// Whether a part of a line was granted.
    pub(crate) fn covers_part(&self, tool: &str, part: &Part) -> bool {
        let Granted::Words { words, open } = &self.what else { return false };
        if self.tool != tool {
            return false;
        }
        if !*open {
            return exact(part).as_ref() == Some(words);
        }
        let begins = part.words.get(..words.len()).unwrap_or_default();
        let is_same = |(word, text): (&Word, &String)| word.literal() == Some(text.as_str());
        part.assignments.is_empty() && begins.len() == words.len() && begins.iter().zip(words).all(is_same)
    }

    /// Whether a line was granted as it stands.
    pub(crate) fn covers_line(&self, tool: &str, line: &str) -> bool {
        self.tool == tool && self.what == Granted::Line(line.to_owned())
    }

    /// Whether a path was granted.
    pub(crate) fn covers_path(&self, tool: &str, paths: &[PathBuf]) -> bool {
        let is_it = |path: &PathBuf| self.what == Granted::Path(path.display().to_string());
        self.tool == tool && paths.last().is_some_and(is_it)
    }
}

/// The words of a part, if all are known.
fn exact(part: &Part) -> Option<Vec<String>> {
    if !part.assignments.is_empty() {
        return None;
    }
    part.words.iter().map(|word| word.literal().map(str::to_owned)).collect()
}

/// The words that say what a command does, where that is known to be so.
fn prefix(part: &Part) -> Option<Vec<String>> {
    if part.is_redirection || !part.assignments.is_empty() {
        return None;
    }
    let (name, first) = (part.words.first()?.literal()?, part.words.get(1)?.literal()?);
    let is_plain = first.starts_with(|c: char| c.is_ascii_lowercase())
        && first.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "-:".contains(c));
    let says =
        (WITH_SUBCOMMANDS.contains(&name) && !RUNNING.contains(&first)) || (name == "git" && GIT.contains(&first));
    (is_plain && says).then(|| vec![name.to_owned(), first.to_owned()])
}

/// A word as it can stand in a line.
fn quoted(word: &str) -> String {
    let is_plain = |c: char| c.is_alphanumeric() || "-_./=:@%+,>&<|".contains(c);
    if !word.is_empty() && word.chars().all(is_plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}
