//! A word of a command line, as the command gets it.

use tree_sitter::Node;

/// A word as the command gets it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Word {
    /// Its text, quotes gone; what stands in the line where it is not known.
    pub(crate) text: String,
    /// Whether the text is what the command gets.
    pub(crate) is_known: bool,
    /// It is a pattern, for which files' names are put in.
    pub(crate) is_glob: bool,
    /// It begins with a tilde that the shell replaces.
    pub(crate) is_home: bool,
}

impl Word {
    /// A word of known text.
    pub(crate) fn known(text: &str) -> Self {
        Self { text: text.to_owned(), is_known: true, is_glob: false, is_home: false }
    }

    /// Its text, if that is all that there is to it.
    pub(crate) fn literal(&self) -> Option<&str> {
        (self.is_known && !self.is_glob && !self.is_home).then_some(self.text.as_str())
    }
}

/// A word, as the shell makes it of its pieces.
pub(super) fn word(node: Node<'_>, text: &str) -> Word {
    let mut word = Word { is_known: true, ..Word::default() };
    let mut cursor = node.walk();
    let pieces: Vec<Node<'_>> = match node.kind() {
        "concatenation" => node.named_children(&mut cursor).collect(),
        _ => vec![node],
    };
    // The pieces of a concatenation have nothing between them, unless something is there that has no name.
    let whole: usize = pieces.iter().map(|piece| piece.end_byte() - piece.start_byte()).sum();
    let raw = node.utf8_text(text.as_bytes()).unwrap_or_default();
    let is_whole = whole == raw.len();
    for (index, piece) in pieces.iter().enumerate() {
        add_piece(&mut word, *piece, text, index == 0);
    }
    if !is_whole || !word.is_known {
        word = Word { text: raw.to_owned(), is_known: false, ..word };
    }
    word
}

fn add_piece(word: &mut Word, piece: Node<'_>, text: &str, is_first: bool) {
    let raw = piece.utf8_text(text.as_bytes()).unwrap_or_default();
    match piece.kind() {
        "word" | "number" => add_unquoted(word, raw, is_first),
        "raw_string" => word.text.push_str(raw.get(1..raw.len().max(2) - 1).unwrap_or_default()),
        "string" if raw.starts_with('"') => {
            let mut cursor = piece.walk();
            let inside = raw.get(1..raw.len().max(2) - 1).unwrap_or_default();
            match piece.named_children(&mut cursor).all(|child| child.kind() == "string_content") {
                true => add_quoted(word, inside),
                false => word.is_known = false,
            }
        }
        // The name of a pipe; what is at its other end is a part of the line.
        "process_substitution" => word.text.push_str(raw),
        // Numbers, whatever they are.
        "simple_expansion" if matches!(raw, "$?" | "$#" | "$$") => word.text.push('0'),
        _ => word.is_known = false,
    }
}

fn add_unquoted(word: &mut Word, raw: &str, is_first: bool) {
    let mut letters = raw.chars();
    word.is_home |= is_first && raw.starts_with('~');
    while let Some(letter) = letters.next() {
        match letter {
            '\\' => word.text.extend(letters.next()),
            '{' | '}' | '$' | '`' | '"' | '\'' => {
                word.is_known = false;
                word.text.push(letter);
            }
            '*' | '?' | '[' => {
                word.is_glob = true;
                word.text.push(letter);
            }
            letter => word.text.push(letter),
        }
    }
}

fn add_quoted(word: &mut Word, inside: &str) {
    let mut letters = inside.chars().peekable();
    while let Some(letter) = letters.next() {
        match (letter, letters.peek()) {
            ('\\', Some('$' | '`' | '"' | '\\')) => word.text.extend(letters.next()),
            (letter, _) => word.text.push(letter),
        }
    }
}
