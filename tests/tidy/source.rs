//! Rust source as words, without comments and literals: enough to find imports and the length of functions.

/// An identifier, `::`, or one sign.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Word {
    pub(super) text: String,
    /// From 1.
    pub(super) line: usize,
}

pub(super) fn words(text: &str) -> Vec<Word> {
    let letters: Vec<char> = text.chars().collect();
    let mut words = Vec::new();
    let (mut at, mut line) = (0, 1);
    while at < letters.len() {
        let end = match letters[at] {
            '/' if letters.get(at + 1) == Some(&'/') => find(&letters, at, &['\n']),
            '/' if letters.get(at + 1) == Some(&'*') => find(&letters, at + 2, &['*', '/']) + 2,
            '"' => end_of_text(&letters, at),
            '\'' => end_of_quote(&letters, at),
            letter if is_part(letter) => {
                let rest = letters[at..].iter();
                let end = at + rest.take_while(|letter| is_part(**letter)).count();
                let word: String = letters[at..end].iter().collect();
                if let Some(end) = raw_end(&letters, end, &word) {
                    end
                } else {
                    words.push(Word { text: word, line });
                    end
                }
            }
            ':' if letters.get(at + 1) == Some(&':') => {
                let text = "::".to_owned();
                words.push(Word { text, line });
                at + 2
            }
            letter => {
                if !letter.is_whitespace() {
                    let text = letter.to_string();
                    words.push(Word { text, line });
                }
                at + 1
            }
        };
        let end = end.min(letters.len());
        line += letters[at..end].iter().filter(|it| **it == '\n').count();
        at = end;
    }
    words
}

fn is_part(letter: char) -> bool {
    letter.is_alphanumeric() || letter == '_'
}

fn find(letters: &[char], from: usize, what: &[char]) -> usize {
    let rest = letters.get(from..).unwrap_or_default();
    let found = rest.windows(what.len()).position(|it| it == what);
    found.map_or(letters.len(), |at| from + at)
}

fn end_of_text(letters: &[char], start: usize) -> usize {
    let mut at = start + 1;
    while at < letters.len() && letters[at] != '"' {
        at += if letters[at] == '\\' { 2 } else { 1 };
    }
    at + 1
}

/// Of a character, or of the sign before the name of a lifetime.
fn end_of_quote(letters: &[char], start: usize) -> usize {
    match letters.get(start + 1) {
        Some('\\') => find(letters, start + 3, &['\'']) + 1,
        _ if letters.get(start + 2) == Some(&'\'') => start + 3,
        _ => start + 1,
    }
}

/// Of a raw or byte literal that begins with this prefix.
fn raw_end(letters: &[char], after: usize, prefix: &str) -> Option<usize> {
    if !["r", "b", "br", "c", "cr"].contains(&prefix) {
        return None;
    }
    let hashes = letters[after..].iter().take_while(|it| **it == '#').count();
    match letters.get(after + hashes) {
        Some('"') if prefix.ends_with('r') => {
            let mut end = vec!['"'];
            end.extend(vec!['#'; hashes]);
            Some(find(letters, after + hashes + 1, &end) + end.len())
        }
        Some('"') if hashes == 0 => Some(end_of_text(letters, after)),
        Some('\'') if hashes == 0 && prefix == "b" => Some(end_of_quote(letters, after)),
        _ => None,
    }
}

/// Without the items that `#[cfg(test)]` stands before.
pub(super) fn without_tests(words: &[Word]) -> Vec<Word> {
    const MARK: [&str; 7] = ["#", "[", "cfg", "(", "test", ")", "]"];
    let mut kept = Vec::new();
    let mut at = 0;
    while at < words.len() {
        let here = words[at..].iter().map(|word| &*word.text);
        if here.take(MARK.len()).eq(MARK) {
            at = end_of_item(words, at + MARK.len());
        } else {
            kept.push(words[at].clone());
            at += 1;
        }
    }
    kept
}

fn end_of_item(words: &[Word], start: usize) -> usize {
    let mut depth = 0;
    for (at, word) in words.iter().enumerate().skip(start) {
        match &*word.text {
            "(" | "[" | "{" => depth += 1,
            ")" | "]" => depth -= 1,
            "}" => {
                depth -= 1;
                let is_use = words.get(at + 1).is_some_and(|next| next.text == ";");
                if depth == 0 && !is_use {
                    return at + 1;
                }
            }
            ";" if depth == 0 => return at + 1,
            _ => {}
        }
    }
    words.len()
}

/// Name of each function with a body, and its lines from `fn` to the closing brace.
pub(super) fn functions(words: &[Word]) -> Vec<(String, usize)> {
    let mut found = Vec::new();
    for (at, word) in words.iter().enumerate() {
        let name = words.get(at + 1).map_or("", |word| &word.text);
        if word.text != "fn" || !name.starts_with(is_part) {
            continue;
        }
        let end = end_of_item(words, at + 1) - 1;
        if words[end].text == "}" {
            found.push((name.to_owned(), words[end].line - word.line + 1));
        }
    }
    found
}

#[test]
fn words_know_comments_literals_and_lines() {
    let text = "a::b // c\n/* d\n*/ 'e' '\\'' \"f\\\"\ng\" r#\"h\" \"#i<'j> b\"k\" b'l' {}";
    let words: Vec<(String, usize)> = words(text)
        .into_iter()
        .map(|word| (word.text, word.line))
        .collect();
    let expected = [
        ("a", 1),
        ("::", 1),
        ("b", 1),
        ("i", 4),
        ("<", 4),
        ("j", 4),
        (">", 4),
        ("{", 4),
        ("}", 4),
    ];
    let expected = expected.map(|(word, line)| (word.to_owned(), line));
    assert_eq!(words, expected);
}

#[test]
fn items_of_tests_are_left_out() {
    let text =
        "a; #[cfg(test)] mod tests; b; #[cfg(test)] use c::{d}; e; #[cfg(test)] fn f() { g } h";
    let kept: Vec<String> = without_tests(&words(text))
        .into_iter()
        .map(|word| word.text)
        .collect();
    assert_eq!(kept, ["a", ";", "b", ";", "e", ";", "h"]);
}

#[test]
fn a_function_is_as_long_as_its_lines() {
    let text =
        "fn a(\n b: fn(c) -> [d; 2],\n) {\n if e {\n }\n}\ntrait F {\n fn g(); fn h() {} }\n";
    let expected = [("a".to_owned(), 6), ("h".to_owned(), 1)];
    assert_eq!(functions(&words(text)), expected);
}
