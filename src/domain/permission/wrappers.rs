//! Commands that run other commands, as far as their arguments tell.

use super::{shell::evaluates, word::Word};

/// What a command runs.
pub(super) enum Inner {
    /// A command of these words; more may follow that are not known.
    Command(Vec<Word>),
    /// A line of the shell.
    Line(String),
    /// Something that the line does not say, and why.
    Unknown(String),
}

/// Whether a command does nothing but run another one as it stands, and what it runs.
pub(super) fn inner(words: &[Word]) -> (bool, Vec<Inner>) {
    let name = words.first().and_then(Word::literal).unwrap_or_default();
    let arguments = words.get(1..).unwrap_or_default();
    match name.rsplit('/').next().unwrap_or(name) {
        "time" => {
            let is_before = |word: &&Word| word.text == "-p" || word.text == "!" || is_assignment(word);
            let rest = after(arguments, arguments.iter().take_while(is_before).count());
            let is_plain = is_command(rest) && !arguments.iter().any(is_assignment);
            (is_plain, if is_command(rest) || rest.is_empty() { command(rest) } else { unknown(name) })
        }
        "nohup" if is_command(arguments) => (false, command(arguments)),
        "nohup" if !arguments.is_empty() => (false, unknown(name)),
        "nice" => match arguments {
            [flag, number, rest @ ..] if flag.literal() == Some("-n") && number.literal().is_some_and(is_number) => {
                (is_command(rest), command(rest))
            }
            [first, ..] if first.literal().is_some_and(|text| !text.starts_with('-')) => (true, command(arguments)),
            _ => (false, behind_flags(arguments, &["-n"])),
        },
        "timeout" => match arguments.first().and_then(Word::literal) {
            Some(first) if is_duration(first) => (is_command(after(arguments, 1)), command(after(arguments, 1))),
            Some(_) | None => {
                let rest = skip_flags(arguments, &["-k", "-s", "--kill-after", "--signal"]);
                (false, rest.map_or_else(|| unknown(name), |rest| command(after(rest, 1))))
            }
        },
        "builtin" | "command" if is_command(arguments) => (true, command(arguments)),
        "command" if matches!(arguments.first().and_then(Word::literal), Some("-v" | "-V")) => (false, Vec::new()),
        "exec" | "command" => (false, behind_flags(arguments, &["-a"])),
        "env" => (false, env(arguments)),
        "sudo" | "doas" => {
            let with_value = ["-u", "-g", "-h", "-p", "-C", "-T", "-r", "-t", "-D", "-U", "-R", "-a", "-c"];
            let rest = skip_flags(arguments, &with_value);
            (false, rest.map_or_else(|| unknown(name), |rest| command(behind_assignments(rest))))
        }
        // What is run by a name of another kind, or by a value that is set, is not to be seen here.
        "alias" | "hash" | "mapfile" | "readarray" | "compgen" | "complete" | "enable" | "bind" | "coproc"
            if !arguments.is_empty() =>
        {
            (false, unknown(name))
        }
        // They evaluate names such as `a[$(rm x)]`.
        "let" | "read" | "test" | "[" | "printf" | "unset" | "wait" | "getopts" | "declare" | "typeset" | "local"
        | "export" | "readonly"
            if arguments.iter().any(|word| evaluates(&word.text)) =>
        {
            (false, unknown(name))
        }
        "setsid" | "stdbuf" | "ionice" | "chrt" | "taskset" | "unshare" | "chroot" | "script" | "flock" | "strace"
        | "ltrace" | "gdb" | "watch" | "parallel" | "entr" | "ssh" | "su" | "runuser" | "setpriv" | "systemd-run"
        | "setarch" | "linux64" | "linux32" | "prlimit" | "choom" | "nsenter" | "fakeroot" | "trap" | "source"
        | "." | "npx" | "busybox" | "toybox" | "rlwrap" | "unbuffer" | "expect" => {
            (false, behind_flags_or_unknown(name, arguments))
        }
        "xargs" => {
            let with_value = ["-I", "-n", "-P", "-L", "-d", "-s", "-a", "-E"];
            // `-i`, `-l` and `-e` have their values with them. What comes in is put behind the words, or into them.
            let rest = skip_flags(arguments, &with_value).unwrap_or_default();
            let puts_in = |word: &Word| {
                let flags = word.text.strip_prefix('-').filter(|flags| !flags.starts_with('-'));
                flags.is_some_and(|flags| flags.contains(['I', 'i'])) || word.text.starts_with("--r")
            };
            let flags = &arguments[..arguments.len() - rest.len()];
            let runs = rest.first().and_then(Word::literal).unwrap_or_default();
            let is_open = OPEN.contains(&runs.rsplit('/').next().unwrap_or_default());
            let mut inners = behind_flags(arguments, &with_value);
            if is_open || flags.iter().any(puts_in) {
                inners.extend(unknown(name));
            }
            (false, inners)
        }
        "find" | "fd" | "fdfind" => (false, find(arguments)),
        "bash" | "sh" | "dash" | "zsh" | "ksh" | "ash" | "rbash" => (false, shell(name, arguments)),
        "eval" => {
            let is_dashes = arguments.first().and_then(Word::literal) == Some("--");
            let texts: Option<Vec<&str>> = after(arguments, usize::from(is_dashes)).iter().map(Word::literal).collect();
            (false, texts.map_or_else(|| unknown(name), |texts| vec![Inner::Line(texts.join(" "))]))
        }
        _ => (false, Vec::new()),
    }
}

/// What they run may come from elsewhere than their words.
const OPEN: [&str; 22] = [
    "env", "nice", "timeout", "time", "nohup", "sudo", "doas", "setsid", "command", "builtin", "exec", "eval", "xargs",
    "bash", "sh", "dash", "zsh", "ksh", "ash", "rbash", "busybox", "find",
];

/// `name=value`, before a command.
fn is_assignment(word: &Word) -> bool {
    let name = word.text.split_once('=').map_or("", |(name, _)| name.trim_end_matches('+'));
    !name.is_empty()
        && !name.starts_with(|c: char| c.is_ascii_digit())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

fn behind_assignments(words: &[Word]) -> &[Word] {
    after(words, words.iter().take_while(|word| word.text.contains('=')).count())
}

fn command(words: &[Word]) -> Vec<Inner> {
    if words.is_empty() { Vec::new() } else { vec![Inner::Command(words.to_vec())] }
}

fn after(words: &[Word], count: usize) -> &[Word] {
    words.get(count..).unwrap_or_default()
}

fn unknown(name: &str) -> Vec<Inner> {
    vec![Inner::Unknown(format!("what {name} runs is not known"))]
}

/// Whether the words begin with a command and not with a flag.
fn is_command(words: &[Word]) -> bool {
    words.first().is_some_and(|word| word.literal().is_none_or(|text| !text.starts_with('-')))
}

fn is_number(text: &str) -> bool {
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit())
}

fn is_duration(text: &str) -> bool {
    let number = text.strip_suffix(['s', 'm', 'h', 'd']).unwrap_or(text);
    !number.is_empty() && number.chars().all(|c| c.is_ascii_digit() || c == '.')
}

/// What follows the flags; none where it is not known whether a flag takes the word behind it.
fn skip_flags<'a>(words: &'a [Word], with_value: &[&str]) -> Option<&'a [Word]> {
    let mut rest = words;
    loop {
        let Some(first) = rest.first() else { return Some(rest) };
        let text = first.literal()?;
        match text {
            "--" => return Some(after(rest, 1)),
            "-" => return Some(rest),
            flag if with_value.contains(&flag) => rest = after(rest, 2),
            flag if flag.starts_with("--") => rest = flag.contains('=').then(|| after(rest, 1))?,
            flag if flag.starts_with('-') => {
                // Several behind one dash: the first that takes a value takes the rest, or the next word.
                let takes = |letter: char| {
                    with_value.iter().any(|flag| flag.strip_prefix('-') == Some(letter.to_string().as_str()))
                };
                let value = flag.char_indices().skip(1).find(|(_, letter)| takes(*letter));
                let is_last = value.is_some_and(|(at, letter)| at + letter.len_utf8() == flag.len());
                rest = after(rest, if is_last { 2 } else { 1 });
            }
            _ => return Some(rest),
        }
    }
}

fn behind_flags(words: &[Word], with_value: &[&str]) -> Vec<Inner> {
    skip_flags(words, with_value).map_or_else(|| unknown("it"), command)
}

/// Their flags are not known here: whichever of their words is the command.
fn behind_flags_or_unknown(name: &str, words: &[Word]) -> Vec<Inner> {
    let mut inners: Vec<Inner> = (0..words.len()).map(|from| Inner::Command(words[from..].to_vec())).take(8).collect();
    inners.extend(unknown(name));
    inners
}

fn env(words: &[Word]) -> Vec<Inner> {
    let Some(mut rest) = skip_flags(words, &["-u", "--unset", "-C", "--chdir"]) else { return unknown("env") };
    let splits = |word: &Word| match word.text.strip_prefix("--") {
        Some(long) => long.starts_with('s'),
        None => word.text.starts_with('-') && word.text.contains('S'),
    };
    if words.iter().any(splits) {
        return unknown("env");
    }
    // Another word for -i, which ends the flags for us and not for it.
    while rest.first().and_then(Word::literal) == Some("-") {
        let Some(more) = skip_flags(after(rest, 1), &["-u", "--unset", "-C", "--chdir"]) else { return unknown("env") };
        rest = more;
    }
    command(behind_assignments(rest))
}

fn find(words: &[Word]) -> Vec<Inner> {
    let runs = |word: &&Word| {
        let flags = ["-exec", "-execdir", "-ok", "-okdir", "-x", "-X", "--exec", "--exec-batch"];
        word.literal().is_none_or(|text| flags.contains(&text))
    };
    let begins = words.iter().enumerate().filter(|(_, word)| runs(word) && word.is_known && !word.is_glob);
    begins.flat_map(|(at, _)| command(after(words, at + 1))).collect()
}

/// `bash -c 'line'`: the line is the first word behind the flags.
fn shell(name: &str, words: &[Word]) -> Vec<Inner> {
    let (mut rest, mut has_line) = (words, false);
    while let Some(text) = rest.first().and_then(Word::literal).filter(|text| text.starts_with(['-', '+'])) {
        // A long one may take the next word.
        if text.starts_with("--") {
            return unknown(name);
        }
        has_line |= text.starts_with('-') && text.contains('c');
        // Each of these takes a word.
        rest = after(rest, 1 + text.matches(['o', 'O']).count());
    }
    match rest.first().and_then(Word::literal).filter(|_| has_line) {
        Some(line) => vec![Inner::Line(line.to_owned())],
        // A script, or what comes in by a pipe.
        None => unknown(name),
    }
}
