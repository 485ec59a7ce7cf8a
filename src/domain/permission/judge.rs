//! What rules and mode say of a call, without making it.

use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{
    PermissionMode, Verdict,
    grants::{self, Grant},
    readers::{self, Place},
    rules::{Effect, Match, Rule},
    shell::{self, Line, Part},
};

/// What a tool call would do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// Nothing that a permission is about.
    None,
    /// Reads below this path of the workspace.
    Read(String),
    /// Changes this file of the workspace.
    Edit(String),
    /// Runs a line of the shell.
    Command(String),
}

/// A call as it is judged.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) tool: String,
    pub(crate) access: Access,
    /// The names of the path that it is about, relative to the workspace: as it was given, and behind links.
    pub(crate) paths: Vec<PathBuf>,
    pub(crate) place: Place,
}

/// Who or what decides without asking.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Authority {
    /// A rule of the operator's, a grant, or the list of what only reads.
    Rule,
    /// The mode.
    Mode,
}

/// What is to become of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Judgement {
    pub(crate) verdict: Verdict,
    pub(crate) by: Authority,
    /// Why, for people and for the model.
    pub(crate) reason: String,
    /// What `allow_session` would allow.
    pub(crate) grants: Vec<Grant>,
}

/// The rules of the house, and what was granted.
pub(crate) struct Judge<'a> {
    pub(crate) mode: PermissionMode,
    pub(crate) rules: &'a [Rule],
    pub(crate) grants: &'a [Grant],
}

const LIST: &str = "the list of commands that only read";
/// Bytes of the longest path.
const MAX_PATH: usize = 4096;

impl Judge<'_> {
    /// Judges a call.
    pub(crate) fn judge(&self, call: &Call) -> Judgement {
        if let Some(rule) = self.about_all(call, Effect::Deny) {
            return denied(Authority::Rule, format!("the rule \"{}\"", rule.text));
        }
        match &call.access {
            Access::None => by_mode(Verdict::Allow, self.mode),
            Access::Read(_) => self.file(call, true),
            Access::Edit(_) => self.file(call, false),
            Access::Command(line) => self.command(call, line),
        }
    }

    fn file(&self, call: &Call, is_reading: bool) -> Judgement {
        let on_path = |effect| {
            self.rules.iter().find(|rule| {
                let is_meant = |path: &PathBuf| rule.path.as_ref().is_some_and(|pattern| pattern.matches(path));
                rule.effect == effect && rule.is_about(&call.tool) && call.paths.iter().any(is_meant)
            })
        };
        let rule = |effect| on_path(effect).or_else(|| self.about_all(call, effect));
        if let Some(rule) = rule(Effect::Deny) {
            return denied(Authority::Rule, format!("the rule \"{}\"", rule.text));
        }
        match self.mode {
            PermissionMode::Auto => by_mode(Verdict::Allow, self.mode),
            PermissionMode::ReadOnly => match rule(Effect::Ask) {
                _ if !is_reading => by_mode(Verdict::Deny, self.mode),
                Some(rule) => denied(Authority::Rule, format!("the rule \"{}\", and nothing is asked here", rule.text)),
                None => by_mode(Verdict::Allow, self.mode),
            },
            PermissionMode::Ask => match rule(Effect::Ask) {
                _ if self.grants.iter().any(|grant| grant.covers_path(&call.tool, &call.paths)) => {
                    allowed("a grant of this session".into())
                }
                Some(rule) => Judgement {
                    verdict: Verdict::Ask,
                    by: Authority::Rule,
                    reason: format!("the rule \"{}\"", rule.text),
                    grants: grants::of_path(&call.tool, &call.paths),
                },
                None => by_mode(Verdict::Allow, self.mode),
            },
        }
    }

    fn command(&self, call: &Call, text: &str) -> Judgement {
        let line = match shell::parse(text) {
            Ok(line) => line,
            Err(why) => Line { hidden: Some(why), ..Line::default() },
        };
        let mut may_be_denied = None;
        for rule in self.rules.iter().filter(|rule| rule.effect == Effect::Deny && rule.is_about(&call.tool)) {
            match self.on_line(rule, &line, call, true) {
                Match::Yes => return denied(Authority::Rule, format!("the rule \"{}\"", rule.text)),
                Match::Maybe => may_be_denied = Some(&rule.text),
                Match::No => {}
            }
        }
        match (self.mode, may_be_denied) {
            (PermissionMode::Auto, None) => by_mode(Verdict::Allow, self.mode),
            (PermissionMode::Auto, Some(rule)) => {
                let why = line.hidden.as_deref().unwrap_or("its words are only known when it runs");
                asked(
                    format!("whether the rule \"{rule}\" is about it cannot be told: {why}"),
                    call,
                    text,
                    &line,
                    false,
                )
            }
            (PermissionMode::ReadOnly, _) => {
                let is_listed = line.hidden.is_none()
                    && line.unlisted.is_none()
                    && line.parts.iter().all(|part| self.is_listed(part, &line, call));
                match self.ask_rule(&line, call) {
                    Some(rule) if is_listed => {
                        denied(Authority::Rule, format!("the rule \"{rule}\", and nothing is asked here"))
                    }
                    None if is_listed => allowed(LIST.into()),
                    Some(_) | None => by_mode(Verdict::Deny, self.mode),
                }
            }
            (PermissionMode::Ask, may_be_denied) => self.ask(call, text, &line, may_be_denied.map(String::as_str)),
        }
    }

    fn ask(&self, call: &Call, text: &str, line: &Line, may_be_denied: Option<&str>) -> Judgement {
        if self.grants.iter().any(|grant| grant.covers_line(&call.tool, text)) {
            return allowed("a grant of this session".into());
        }
        if let Some(rule) = may_be_denied {
            let why = format!("whether the rule \"{rule}\" is about it cannot be told");
            return asked(why, call, text, line, false);
        }
        if let Some(rule) = self.ask_rule(line, call) {
            return asked(format!("the rule \"{rule}\""), call, text, line, false);
        }
        if let Some(rule) = self.about_all(call, Effect::Allow) {
            return allowed(format!("the rule \"{}\"", rule.text));
        }
        if let Some(why) = line.hidden.as_ref().or(line.unlisted.as_ref()) {
            return asked(why.clone(), call, text, line, false);
        }
        let mut by = None;
        let mut open = Line::default();
        for part in &line.parts {
            if self.is_listed(part, line, call) {
                continue;
            }
            let allows = |rule: &&Rule| {
                let fits = rule.command.as_ref().is_some_and(|pattern| pattern.matches(part, false) == Match::Yes);
                rule.effect == Effect::Allow && rule.is_about(&call.tool) && fits
            };
            if let Some(rule) = self.rules.iter().find(allows) {
                by.get_or_insert_with(|| format!("the rule \"{}\"", rule.text));
            } else if self.grants.iter().any(|grant| grant.covers_part(&call.tool, part)) {
                by.get_or_insert_with(|| "a grant of this session".to_owned());
            } else {
                open.parts.push(part.clone());
            }
        }
        if open.parts.is_empty() {
            return allowed(by.unwrap_or_else(|| LIST.into()));
        }
        let texts: Vec<String> = open.parts.iter().map(|part| format!("`{}`", shell::short(&part.text()))).collect();
        asked(format!("no rule allows {}", texts.join(", ")), call, text, &open, true)
    }

    /// A rule for all calls of this tool.
    fn about_all(&self, call: &Call, effect: Effect) -> Option<&Rule> {
        self.rules.iter().find(|rule| rule.effect == effect && rule.is_about_all() && rule.is_about(&call.tool))
    }

    /// The rule that wants a line to be asked for.
    fn ask_rule(&self, line: &Line, call: &Call) -> Option<&str> {
        let wants = |rule: &&Rule| {
            rule.effect == Effect::Ask
                && rule.is_about(&call.tool)
                && (rule.is_about_all() || self.on_line(rule, line, call, true) == Match::Yes)
        };
        self.rules.iter().find(wants).map(|rule| rule.text.as_str())
    }

    /// Whether a rule is about any part of a line.
    fn on_line(&self, rule: &Rule, line: &Line, call: &Call, by_name: bool) -> Match {
        let on_part = |part: &Part| {
            let command = rule.command.as_ref().map_or(Match::No, |pattern| pattern.matches(part, by_name));
            let path = rule
                .path
                .as_ref()
                .is_some_and(|pattern| paths(part, &call.place).iter().any(|path| pattern.matches(path)));
            if path { Match::Yes } else { command }
        };
        let found = line.parts.iter().map(on_part).max().unwrap_or(Match::No);
        match (found, &line.hidden, &rule.command) {
            (Match::No, Some(_), Some(_)) => Match::Maybe,
            (found, _, _) => found,
        }
    }

    /// Whether a part is on the list. Where there are rules about paths, the names behind a pattern matter.
    fn is_listed(&self, part: &Part, line: &Line, call: &Call) -> bool {
        let is_about_paths = |rule: &Rule| rule.path.is_some() && rule.effect != Effect::Allow;
        let has_pattern = part.words.iter().any(|word| word.is_glob);
        readers::is_listed(part, line, &call.place) && !(has_pattern && self.rules.iter().any(is_about_paths))
    }
}

fn by_mode(verdict: Verdict, mode: PermissionMode) -> Judgement {
    Judgement { verdict, by: Authority::Mode, reason: format!("the mode {}", mode.as_str()), grants: Vec::new() }
}

fn denied(by: Authority, reason: String) -> Judgement {
    Judgement { verdict: Verdict::Deny, by, reason, grants: Vec::new() }
}

fn allowed(reason: String) -> Judgement {
    Judgement { verdict: Verdict::Allow, by: Authority::Rule, reason, grants: Vec::new() }
}

fn asked(reason: String, call: &Call, text: &str, line: &Line, by_part: bool) -> Judgement {
    let by = if by_part { Authority::Mode } else { Authority::Rule };
    let mut grants = if by_part { grants::of_parts(&call.tool, line) } else { Vec::new() };
    if grants.is_empty() {
        grants = grants::of_line(&call.tool, text);
    }
    Judgement { verdict: Verdict::Ask, by, reason, grants }
}

/// The paths of the workspace that the words of a command may name.
fn paths(part: &Part, place: &Place) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for word in part.words.iter().filter(|word| word.is_known) {
        let text = word.text.as_str();
        found.extend(inside(text, place));
        // What is longer is no path, and not all of it is to be kept.
        let near = text.ceil_char_boundary(text.len().saturating_sub(MAX_PATH));
        for (at, letter) in text[near..].char_indices().map(|(at, letter)| (near + at, letter)) {
            if matches!(letter, '=' | ':' | '@' | ',') {
                found.extend(inside(&text[at + 1..], place));
            }
        }
        if let Some(value) =
            text.strip_prefix('-').and_then(|flag| flag.get(1..)).filter(|value| value.len() <= MAX_PATH)
        {
            found.extend(inside(value, place));
        }
    }
    found
}

fn inside(text: &str, place: &Place) -> Option<PathBuf> {
    let mut path = PathBuf::new();
    for part in place.directory.join(Path::new(text)).components() {
        match part {
            Component::ParentDir => drop(path.pop()),
            Component::CurDir => {}
            Component::Normal(_) | Component::RootDir | Component::Prefix(_) => path.push(part),
        }
    }
    path.strip_prefix(&place.root)
        .ok()
        .filter(|path| !text.is_empty() && !path.as_os_str().is_empty())
        .map(Path::to_owned)
}
