//! A command line as its parts: every simple command and redirection in it, wherever it stands. A real parser reads it
//! (tree-sitter's bash); what that does not know for sure is said so, and nothing here guesses.

use std::{borrow::Cow, ops::ControlFlow};

use tree_sitter::{Node, ParseOptions, ParseState, Parser};

use super::{
    conditions, gaps, heredoc,
    word::{Word, word},
    wrappers::{Inner, inner},
};

/// How deep command lines may lie within command lines (`bash -c "bash -c ..."`).
const MAX_DEPTH: u8 = 4;
/// Most parts of a line; one with more is not judged.
const MAX_PARTS: usize = 500;
/// Steps of the parser between two looks at the size of its work.
const MAX_STEPS: usize = 20_000;

/// What a command line would do, as far as it can be told.
#[derive(Debug, Default)]
pub(crate) struct Line {
    /// The simple commands and redirections, those that other commands run too.
    pub(crate) parts: Vec<Part>,
    /// Why there may be commands in it that are no part.
    pub(crate) hidden: Option<String>,
    /// Why it cannot be on the list of what only reads, though all commands are known.
    pub(crate) unlisted: Option<String>,
    /// It changes its working directory.
    pub(crate) moves: bool,
}

/// A simple command, or a redirection: then its words are the operator and the target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Part {
    /// The words, the name first.
    pub(crate) words: Vec<Word>,
    /// Assignments before the name, as they stand in the line.
    pub(crate) assignments: Vec<String>,
    /// Whether it is a redirection.
    pub(crate) is_redirection: bool,
    /// It only starts the command behind it, which is a part of its own.
    pub(crate) is_wrapper: bool,
}

impl Part {
    /// It as a line, for people.
    pub(crate) fn text(&self) -> String {
        let words = self.words.iter().map(|word| Cow::from(word.text.as_str()));
        self.assignments.iter().map(|text| Cow::from(text.as_str())).chain(words).collect::<Vec<_>>().join(" ")
    }

    /// Its name, where that is known.
    pub(crate) fn name(&self) -> Option<&str> {
        self.words.first()?.literal()
    }
}

/// Takes a line apart. The error says why that cannot be.
pub(crate) fn parse(line: &str) -> Result<Line, String> {
    let mut found = Line::default();
    parse_into(line, &mut found, 0)?;
    Ok(found)
}

fn parse_into(text: &str, line: &mut Line, depth: u8) -> Result<(), String> {
    // What the parser takes for space and the shell does not, or the other way round.
    let is_odd = |c: char| (c.is_whitespace() || c.is_control()) && !matches!(c, ' ' | '\t' | '\n');
    // Some characters without a shape the parser leaves out.
    let is_shapeless = |c: char| matches!(c, '\u{200b}' | '\u{2060}' | '\u{feff}');
    if text.chars().any(|c| is_odd(c) || is_shapeless(c)) {
        return Err("it has control characters or unusual spaces".into());
    }
    // The shell puts together what stands before and behind; the parser takes it for a space, which it mostly is.
    let is_apart = |before: &str| before.strip_suffix([' ', '\t']).is_some_and(|before| !before.ends_with('\\'));
    if text.match_indices("\\\n").any(|(at, _)| !is_apart(&text[..at])) {
        return Err("it has a line break in the middle of a word".into());
    }
    let mut parser = Parser::new();
    parser.set_language(&tree_sitter_bash::LANGUAGE.into()).map_err(|error| error.to_string())?;
    let mut steps = 0;
    let mut progress = |_: &ParseState| {
        steps += 1;
        if steps > MAX_STEPS { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    let options = ParseOptions::new().progress_callback(&mut progress);
    let mut read = |offset: usize, _| text.as_bytes().get(offset..).unwrap_or_default();
    let tree = parser.parse_with_options(&mut read, None, Some(options)).ok_or("it is too involved")?;
    let root = tree.root_node();
    if root.has_error() {
        return Err("it is not understood".into());
    }
    // Not by recursion: how deep a line goes is the model's choice.
    let mut nodes = vec![root];
    while let Some(node) = nodes.pop() {
        visit(node, text, line, depth)?;
        if line.parts.len() > MAX_PARTS {
            return Err("it has too many commands".into());
        }
        let mut cursor = node.walk();
        let children: Vec<_> = node.named_children(&mut cursor).collect();
        // The first one is to be looked at first.
        nodes.extend(children.into_iter().rev());
    }
    Ok(())
}

fn visit(node: Node<'_>, text: &str, line: &mut Line, depth: u8) -> Result<(), String> {
    let said = node.utf8_text(text.as_bytes()).unwrap_or_default();
    if !gaps::are_plain(node, text) {
        note(&mut line.hidden, "it has more than is understood:", said);
    }
    match node.kind() {
        "command" => add(command(node, text), line, depth)?,
        "file_redirect" => {
            let part = redirection(node, text);
            let takes = if part.name().is_some_and(|operator| operator.ends_with('-')) { 1 } else { 2 };
            if part.words.len() > takes || sets_a_variable(node, text) {
                line.hidden = Some(format!("it has a redirection with more to it: {}", short(said)));
            }
            line.parts.push(part);
        }
        "herestring_redirect" if sets_a_variable(node, text) => {
            line.hidden = Some(format!("it has a redirection with more to it: {}", short(said)));
        }
        "heredoc_redirect" => {
            if !heredoc::is_plain(node, text) || sets_a_variable(node, text) {
                line.hidden = Some(format!("it has a document whose end is not sure: {}", short(said)));
            }
        }
        // What the parser takes for a remark is a part of the word before it.
        "comment"
            if !text[..node.start_byte()].ends_with([' ', '\t', '\n', ';', '&', '|', '(', ')'])
                && node.start_byte() > 0 =>
        {
            line.hidden = Some(format!("it has a remark that may be none: {}", short(said)));
        }
        // Where it ends is seen otherwise by the parser.
        "ansi_c_string" if said.contains("\\\\") || said.contains("\\'") => {
            line.hidden = Some(format!("it has a string whose end is not sure: {}", short(said)));
        }
        // Within double quotes these do not quote.
        "raw_string" if said.contains(['$', '`']) && is_in_expansion(node) => {
            line.hidden = Some(format!("it has a substitution that is not understood: {}", short(said)));
        }
        "variable_assignment" if runs_when_set(said) => {
            line.hidden = Some(format!("it sets what the shell runs: {}", short(said)));
        }
        "expansion" if said.contains('@') => {
            line.hidden = Some(format!("it has a substitution that is not understood: {}", short(said)));
        }
        // The shell ends it at the next backtick, whatever stands between.
        "command_substitution" if said.starts_with('`') && said.contains(['\\', '\'', '"', '#']) => {
            line.hidden = Some("it has quotes, a remark or a backslash within backticks".into());
        }
        "expansion" if !is_plain_expansion(said) => note(&mut line.unlisted, "it has", said),
        "arithmetic_expansion" if !said.chars().all(|c| c.is_ascii_digit() || "$()+-*/% ".contains(c)) => {
            note(&mut line.unlisted, "it has", said);
        }
        "compound_statement" if said.starts_with("((") => note(&mut line.unlisted, "it has", said),
        // It evaluates text as arithmetic, and that can hold commands.
        "test_command" if said.starts_with("[[") => {
            note(&mut line.unlisted, "it has", said);
            if evaluates(said.trim_start_matches('[')) {
                note(&mut line.hidden, "it has", said);
            }
        }
        "test_command" if !conditions::is_plain(node, text) => {
            note(&mut line.unlisted, "it has", said);
            if said.contains(['\n', '|', '&', ';', '<', '>']) || evaluates(said.trim_start_matches('[')) {
                note(&mut line.hidden, "it has", said);
            }
        }
        "for_statement" if !is_plain_loop(node, text) => note(&mut line.unlisted, "it sets", said),
        "variable_assignment" if node.parent().is_none_or(|above| above.kind() != "command") => {
            note(&mut line.unlisted, "it sets", said);
        }
        "function_definition" | "declaration_command" | "unset_command" | "c_style_for_statement" => {
            note(&mut line.unlisted, "it has", said);
            if node.kind() != "function_definition" && evaluates(said) {
                note(&mut line.hidden, "it has", said);
            }
        }
        "word" | "string_content" | "heredoc_content" | "extglob_pattern" | "regex" => {
            if said.contains('`') || substitutes(said) {
                line.hidden = Some(format!("it has a substitution that is not understood: {}", short(said)));
            }
            if matches!(node.kind(), "extglob_pattern" | "regex") && !said.chars().all(|c| c.is_ascii_alphanumeric()) {
                note(&mut line.unlisted, "it has", said);
            }
        }
        "program"
        | "list"
        | "pipeline"
        | "redirected_statement"
        | "subshell"
        | "compound_statement"
        | "if_statement"
        | "elif_clause"
        | "else_clause"
        | "for_statement"
        | "while_statement"
        | "do_group"
        | "case_statement"
        | "case_item"
        | "negated_command"
        | "heredoc_body"
        | "heredoc_start"
        | "heredoc_end"
        | "herestring_redirect"
        | "command_substitution"
        | "process_substitution"
        | "string"
        | "concatenation"
        | "number"
        | "raw_string"
        | "ansi_c_string"
        | "comment"
        | "file_descriptor"
        | "simple_expansion"
        | "variable_name"
        | "special_variable_name"
        | "command_name"
        | "expansion"
        | "arithmetic_expansion"
        | "test_command"
        | "unary_expression"
        | "binary_expression"
        | "parenthesized_expression"
        | "test_operator"
        | "variable_assignment" => {}
        _ => note(&mut line.unlisted, "it has", said),
    }
    Ok(())
}

fn note(place: &mut Option<String>, what: &str, said: &str) {
    place.get_or_insert_with(|| format!("{what} {}", short(said)));
}

/// The beginning of a text, in one line.
pub(super) fn short(text: &str) -> String {
    let mut line: String = text.chars().take(80).map(|c| if c == '\n' { ' ' } else { c }).collect();
    if line.len() < text.len() {
        line.push('…');
    }
    line
}

/// Adds a command, and what it runs in turn.
fn add(part: Part, line: &mut Line, depth: u8) -> Result<(), String> {
    let mut part = part;
    let mut inners = Vec::new();
    if matches!(part.name(), Some("cd" | "pushd" | "popd")) {
        line.moves = true;
    }
    match part.name() {
        None => note(&mut line.hidden, "it runs what is only known when it runs:", &part.text()),
        Some(_) => {
            let (is_wrapper, found) = inner(&part.words);
            // One of the workspace may have the same name.
            (part.is_wrapper, inners) = (is_wrapper && !part.name().unwrap_or_default().contains('/'), found);
        }
    }
    if depth >= MAX_DEPTH && !inners.is_empty() {
        return Err("it has command lines within command lines, too deep".into());
    }
    line.parts.push(part);
    for inner in inners {
        match inner {
            Inner::Command(words) => {
                let part = Part { words, assignments: Vec::new(), is_redirection: false, is_wrapper: false };
                add(part, line, depth + 1)?;
            }
            Inner::Line(text) => {
                line.unlisted.get_or_insert_with(|| format!("it has a command line of its own: {}", short(&text)));
                parse_into(&text, line, depth + 1)?;
            }
            Inner::Unknown(why) => {
                line.hidden.get_or_insert(why);
            }
        }
    }
    Ok(())
}

fn command(node: Node<'_>, text: &str) -> Part {
    let mut part = Part { words: Vec::new(), assignments: Vec::new(), is_redirection: false, is_wrapper: false };
    let mut cursor = node.walk();
    for child in node.named_children(&mut cursor) {
        match child.kind() {
            "variable_assignment" => part.assignments.push(short(child.utf8_text(text.as_bytes()).unwrap_or_default())),
            "command_name" => {
                let first = child.named_child(0);
                part.words.push(first.map_or_else(Word::default, |child| word(child, text)));
            }
            "file_redirect" | "herestring_redirect" | "heredoc_redirect" | "comment" => {}
            _ => part.words.push(word(child, text)),
        }
    }
    part
}

fn redirection(node: Node<'_>, text: &str) -> Part {
    let mut cursor = node.walk();
    let operator = node.children(&mut cursor).find(|child| !child.is_named()).map_or("", |child| child.kind());
    let mut words = vec![Word::known(operator)];
    let mut cursor = node.walk();
    words.extend(node.children_by_field_name("destination", &mut cursor).map(|child| word(child, text)));
    Part { words, assignments: Vec::new(), is_redirection: true, is_wrapper: false }
}

/// `${name}`, and nothing that the shell does with it.
fn is_plain_expansion(said: &str) -> bool {
    let name = said.strip_prefix("${").and_then(|rest| rest.strip_suffix('}'));
    name.is_some_and(|name| !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_'))
}

/// Whether a loop sets a variable of its own, and not one that the shell or another program goes by, and looks for no names
/// outside of where it runs.
fn is_plain_loop(node: Node<'_>, text: &str) -> bool {
    let name = node.child_by_field_name("variable").and_then(|name| name.utf8_text(text.as_bytes()).ok());
    let mut cursor = node.walk();
    let leads_out = node.children_by_field_name("value", &mut cursor).map(|value| word(value, text)).any(|value| {
        value.is_home
            || value.is_glob
                && (value.text.starts_with('/') || value.text.split('/').any(|part| part.starts_with("..")))
    });
    !leads_out
        && name.is_some_and(|name| name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_'))
}

/// `{name}<file`: the shell puts a number into the variable.
fn sets_a_variable(node: Node<'_>, text: &str) -> bool {
    text[..node.start_byte()].ends_with('}')
}

/// Whether text that is evaluated as arithmetic, such as `a[$(rm x)]`, may run something.
pub(super) fn evaluates(text: &str) -> bool {
    text.contains('[') && (text.contains("$(") || text.contains('`') || text.contains("${"))
}

/// Whether the shell runs the value of a variable.
fn runs_when_set(said: &str) -> bool {
    let name = said.split(['=', '+', '[']).next().unwrap_or_default();
    matches!(name, "PS0" | "PS1" | "PS2" | "PS4" | "PROMPT_COMMAND" | "BASH_ENV" | "ENV")
        || evaluates(said.split('=').next().unwrap_or_default())
}

fn is_in_expansion(node: Node<'_>) -> bool {
    let mut above = node.parent();
    while let Some(node) = above {
        match node.kind() {
            "expansion" => return true,
            "command_substitution" | "command" => return false,
            _ => above = node.parent(),
        }
    }
    false
}

/// Whether a text has the beginning of a substitution that no backslash takes away.
fn substitutes(said: &str) -> bool {
    let mut is_escaped = false;
    let bytes = said.as_bytes();
    bytes.iter().enumerate().any(|(at, byte)| {
        let next = bytes.get(at + 1);
        let found = !is_escaped && (*byte == b'$' && matches!(next, Some(b'(' | b'{' | b'[')));
        is_escaped = *byte == b'\\' && !is_escaped;
        found
    })
}
