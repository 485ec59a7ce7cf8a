//! Rules: what is allowed, asked for or denied, by tool and by command pattern or path glob. An operator's file has them.

use std::{path::Path, sync::Arc};

use globset::{GlobBuilder, GlobMatcher};
use serde::Deserialize;

use super::{shell::Part, word::Word};
use crate::domain::error::{Error, Result};

/// What a rule says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Effect {
    /// Free in the mode `ask`.
    Allow,
    /// Asked for in the mode `ask`, and denied where nothing is asked.
    Ask,
    /// Denied in every mode.
    Deny,
}

/// A rule of the operator's.
#[derive(Clone, Debug)]
pub(crate) struct Rule {
    pub(crate) effect: Effect,
    pub(crate) tool: Option<String>,
    pub(crate) command: Option<CommandPattern>,
    pub(crate) path: Option<PathPattern>,
    /// As clients are shown it.
    pub(crate) text: String,
}

/// The words of a command: `*` alone stands for any number of words, within a word for any letters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CommandPattern(Vec<String>);

/// Paths relative to the workspace.
#[derive(Clone, Debug)]
pub(crate) struct PathPattern(Vec<GlobMatcher>);

/// Whether a pattern is that of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Match {
    No,
    /// It depends on what is only known when it runs.
    Maybe,
    Yes,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    rules: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    decision: Effect,
    tool: Option<String>,
    command: Option<String>,
    path: Option<String>,
}

/// The setting that names the file.
pub(crate) const SETTING: &str = "OPENCODE_PERMISSION_RULES";

/// Reads the operator's file.
pub(crate) fn read(file: &Path) -> Result<Vec<Rule>> {
    let name = file.display();
    let text = std::fs::read_to_string(file)
        .map_err(|error| Error::field(SETTING, format!("{name} cannot be read: {error}")))?;
    parse(&text).map_err(|problem| Error::field(SETTING, format!("{name}: {problem}")))
}

pub(super) fn parse(text: &str) -> std::result::Result<Vec<Rule>, String> {
    let file: File = serde_saphyr::from_str(text).map_err(|error| error.to_string())?;
    let rules = file.rules.into_iter().enumerate();
    rules.map(|(at, entry)| rule(entry).map_err(|problem| format!("rules[{at}]: {problem}"))).collect()
}

fn rule(entry: Entry) -> std::result::Result<Rule, String> {
    let Entry { decision: effect, tool, command, path } = entry;
    let is_set = |text: &Option<String>| text.as_deref().is_some_and(|text| !text.trim().is_empty());
    if ![&tool, &command, &path].into_iter().any(is_set) {
        return Err("needs a tool, a command or a path".into());
    }
    if command.is_some() && path.is_some() {
        return Err("has a command and a path; make two rules of it".into());
    }
    let name = match effect {
        Effect::Allow => "allow",
        Effect::Ask => "ask",
        Effect::Deny => "deny",
    };
    let mut shown = vec![name.to_owned()];
    shown.extend(tool.iter().map(|tool| format!("tool {tool}")));
    shown.extend(command.iter().map(|command| format!("command `{command}`")));
    shown.extend(path.iter().map(|path| format!("path `{path}`")));
    Ok(Rule {
        effect,
        tool,
        command: command.as_deref().map(CommandPattern::new),
        path: path.as_deref().map(PathPattern::new).transpose()?,
        text: shown.join(" "),
    })
}

impl Rule {
    /// Whether it is about this tool at all.
    pub(crate) fn is_about(&self, tool: &str) -> bool {
        self.tool.as_deref().is_none_or(|name| name == tool)
    }

    /// Whether it is about every call of its tool.
    pub(crate) fn is_about_all(&self) -> bool {
        self.command.is_none() && self.path.is_none()
    }
}

/// What deny rules keep from a tool also where it comes upon it by itself, as in a listing.
#[derive(Clone, Debug, Default)]
pub(in crate::domain) struct Hidden(Arc<[PathPattern]>);

impl Hidden {
    /// From a tool, by the rules.
    pub(in crate::domain) fn from(tool: &str, rules: &[Rule]) -> Self {
        let rules = rules.iter().filter(|rule| rule.effect == Effect::Deny && rule.is_about(tool));
        Self(rules.filter_map(|rule| rule.path.clone()).collect())
    }

    /// Whether a path relative to the workspace is hidden.
    pub(in crate::domain) fn hides(&self, path: &Path) -> bool {
        self.0.iter().any(|pattern| pattern.matches(path))
    }
}

impl CommandPattern {
    pub(crate) fn new(text: &str) -> Self {
        Self(text.split_whitespace().map(str::to_owned).collect())
    }

    /// Whether a part of a line is meant. `by_name` takes `/bin/rm` for `rm`, and looks behind assignments.
    pub(crate) fn matches(&self, part: &Part, by_name: bool) -> Match {
        let mut words = part.words.clone();
        if !part.assignments.is_empty() && !by_name {
            words.splice(0..0, part.assignments.iter().map(|text| Word::known(text)));
        }
        let found = fits(&self.0, &words);
        match (by_name, part.name()) {
            (true, Some(name)) if name.contains('/') && !part.is_redirection => {
                words[0] = Word::known(name.rsplit('/').next().unwrap_or(name));
                found.max(fits(&self.0, &words))
            }
            _ => found,
        }
    }
}

/// Dynamic programming over words: a pattern with many stars costs its length and no more.
fn fits(pattern: &[String], words: &[Word]) -> Match {
    let mut row = vec![Match::No; words.len() + 1];
    row[0] = Match::Yes;
    for token in pattern {
        let mut next = vec![Match::No; words.len() + 1];
        if token == "*" {
            let mut best = Match::No;
            for (at, reached) in row.iter().enumerate() {
                best = best.max(*reached);
                next[at] = best;
            }
        } else {
            for (at, word) in words.iter().enumerate() {
                next[at + 1] = row[at].min(fits_word(token, word));
            }
        }
        row = next;
    }
    row[words.len()]
}

fn fits_word(token: &str, word: &Word) -> Match {
    match word.literal() {
        Some(text) if fits_letters(token, text) => Match::Yes,
        Some(_) => Match::No,
        None => Match::Maybe,
    }
}

fn fits_letters(token: &str, text: &str) -> bool {
    let text: Vec<char> = text.chars().collect();
    let mut row = vec![false; text.len() + 1];
    row[0] = true;
    for letter in token.chars() {
        let mut next = vec![false; text.len() + 1];
        if letter == '*' {
            let mut best = false;
            for (at, reached) in row.iter().enumerate() {
                best |= reached;
                next[at] = best;
            }
        } else {
            for (at, other) in text.iter().enumerate() {
                next[at + 1] = row[at] && (letter == *other || letter == '?');
            }
        }
        row = next;
    }
    row[text.len()]
}

impl PathPattern {
    pub(crate) fn new(text: &str) -> std::result::Result<Self, String> {
        let text = text.trim_start_matches("./").trim_end_matches('/');
        // A folder's name is about all that is in it; one without a slash holds at any depth.
        let mut globs = vec![text.to_owned(), format!("{text}/**")];
        if !text.contains('/') {
            globs.extend([format!("**/{text}"), format!("**/{text}/**")]);
        }
        let built = globs.iter().map(|glob| {
            let built = GlobBuilder::new(glob).literal_separator(true).build();
            built.map(|glob| glob.compile_matcher()).map_err(|error| error.to_string())
        });
        built.collect::<std::result::Result<_, _>>().map(Self)
    }

    /// Whether a path relative to the workspace is meant.
    pub(crate) fn matches(&self, path: &Path) -> bool {
        self.0.iter().any(|glob| glob.is_match(path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::permission::shell;

    #[test]
    fn patterns_are_about_words() {
        let cases = [
            ("cargo test *", "cargo test", Match::Yes),
            ("cargo test *", "cargo test --all 'a b'", Match::Yes),
            ("cargo test *", "cargo build", Match::No),
            ("cargo test *", "cargo $x", Match::Maybe),
            ("cargo test *", "'cargo test' x", Match::No),
            ("rm *", r#"r\m -rf "x""#, Match::Yes),
            ("rm *", "/bin/rm x", Match::Yes),
            ("rm *", "A=1 rm x", Match::Yes),
            ("rm *", "$x y", Match::Maybe),
            ("git * --force", "git push origin --force", Match::Yes),
            ("git * --force", "git push origin", Match::No),
            ("npm run lint:*", "npm run lint:fix", Match::Yes),
            ("ls", "ls -l", Match::No),
        ];
        for (pattern, line, expected) in cases {
            let parts = shell::parse(line).expect("a line").parts;
            assert_eq!(CommandPattern::new(pattern).matches(&parts[0], true), expected, "{pattern}: {line}");
        }
        let parts = shell::parse("A=1 cargo test").expect("a line").parts;
        assert_eq!(CommandPattern::new("cargo test *").matches(&parts[0], false), Match::No);
    }

    #[test]
    fn paths_are_about_folders_too() {
        let cases = [
            (".env", "a/.env", true),
            (".env", "a/.envrc", false),
            ("secrets", "secrets/a/b", true),
            ("secrets/", "x/secrets/b", true),
            ("src/*.rs", "src/a.rs", true),
            ("src/*.rs", "src/a/b.rs", false),
            ("src/**", "src/a/b.rs", true),
        ];
        for (pattern, path, expected) in cases {
            let pattern = PathPattern::new(pattern).expect("a glob");
            assert_eq!(pattern.matches(Path::new(path)), expected, "{path}");
        }
    }

    #[test]
    fn a_file_of_rules_is_checked() {
        let rules = parse("rules:\n- {decision: deny, command: git push *}\n- {decision: allow, tool: bash}\n");
        let texts: Vec<String> = rules.expect("rules").into_iter().map(|rule| rule.text).collect();
        assert_eq!(texts, ["deny command `git push *`", "allow tool bash"]);
        for (text, problem) in [
            ("rules: [{decision: deny}]", "rules[0]: needs a tool"),
            ("rules: [{decision: never, tool: x}]", "never"),
            ("rules: [{decision: deny, comand: x}]", "comand"),
            ("rules: [{decision: deny, path: 'a[', tool: x}]", "rules[0]"),
        ] {
            let error = parse(text).expect_err(text);
            assert!(error.contains(problem), "{error}");
        }
    }
}
