//! The claims of `src/manual/claims.md` against the code: each names the function that enforces it, which carries its id
//! in a comment, a test whose name begins with the id, and a mutant in `tests/mutants.txt` that removes the guard.

use std::collections::{BTreeMap, BTreeSet};

use super::{files, read};

/// One row of the table of claims.
pub struct Claim {
    pub id: String,
    sources: String,
    /// `path::item`, the path below `src/`, or below the root for `sql/`.
    enforced_by: Vec<String>,
    pub tests: Vec<String>,
}

/// The cells of each row of the tables under this heading of a page.
fn rows(page: &str, heading: &str) -> Vec<Vec<String>> {
    let text = read(page);
    let section = text.split(&format!("\n## {heading}\n")).nth(1).unwrap_or_else(|| panic!("no section {heading}"));
    let section = section.split("\n## ").next().unwrap_or_default();
    let lines = section.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| id |"));
    lines.map(|line| line.trim_matches('|').split(" | ").map(|cell| cell.trim().to_owned()).collect()).collect()
}

fn quoted(cell: &str) -> Vec<String> {
    cell.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

pub fn claims() -> Vec<Claim> {
    let claim = |row: Vec<String>| {
        assert_eq!(row.len(), 5, "a claim has five cells: {row:?}");
        Claim { id: row[0].clone(), sources: row[2].clone(), enforced_by: quoted(&row[3]), tests: quoted(&row[4]) }
    };
    rows("src/manual/claims.md", "Claims").into_iter().map(claim).collect()
}

/// Every file that can enforce or test something.
fn sources() -> Vec<String> {
    let extensions = ["rs", "sql", "js", "ts", "html", "mjs", "sh"];
    let folders = ["src", "sql", "tests"];
    folders.iter().flat_map(|folder| extensions.iter().flat_map(|extension| files(folder, extension))).collect()
}

/// First and last line, counted from 1, of an item, with the comments above it: `path::item` or `path::type::item`, the
/// path below `src/`, or beginning with `sql/`.
fn item(place: &str) -> Option<(String, usize, usize)> {
    let (path, names) = place.split_once("::").unwrap_or_else(|| panic!("{place}: path::item"));
    let path = if path.starts_with("sql/") { path.to_owned() } else { format!("src/{path}") };
    let text = read(&path);
    let lines: Vec<&str> = text.lines().collect();
    let mut from = 0;
    if let Some((parent, _)) = names.split_once("::") {
        let opens = |line: &&str| line.starts_with("impl") && line.split([' ', '<']).any(|word| word == parent);
        from = lines.iter().position(opens)?;
    }
    let name = names.rsplit("::").next()?;
    let start = from + lines[from..].iter().position(|line| defines(line, name))?;
    let indentation = lines[start].len() - lines[start].trim_start().len();
    let closes = |line: &&str| {
        // A line that closes the parameters opens the body.
        !line.ends_with('{')
            && line.len() > indentation
            && line[..indentation].trim().is_empty()
            && ["}", ")", "];", "$$", "end"].iter().any(|closing| line[indentation..].starts_with(closing))
    };
    let is_one_line = lines[start].ends_with(';') || lines[start].ends_with('}');
    let end = match path.ends_with(".sql") {
        // A statement of SQL ends where a semicolon stands before an empty line.
        true => {
            (start..lines.len()).find(|n| lines[*n].ends_with(';') && lines.get(n + 1).is_none_or(|l| l.is_empty()))?
        }
        false if is_one_line => start,
        false => start + 1 + lines[start + 1..].iter().position(closes)?,
    };
    let is_above = |line: &&&str| ["//", "--", "*", "/*", "#["].iter().any(|mark| line.trim_start().starts_with(mark));
    let above = lines[..start].iter().rev().take_while(is_above).count();
    Some((path, start + 1 - above, end + 1))
}

/// Whether this line begins the definition of that name.
fn defines(line: &str, name: &str) -> bool {
    let keywords =
        ["fn", "struct", "enum", "const", "static", "type", "impl", "trait", "mod", "function", "table", "class"];
    let words: Vec<&str> = line.split(|c: char| !c.is_alphanumeric() && c != '_').collect();
    let is_comment = ["//", "--", "*"].iter().any(|mark| line.trim_start().starts_with(mark));
    !is_comment && words.windows(2).any(|pair| keywords.contains(&pair[0]) && pair[1] == name)
}

/// The ids (`S1` …) in a text.
fn ids(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let is_id =
        |word: &&str| word.strip_prefix('S').is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()));
    words.filter(is_id).map(str::to_owned).collect()
}

#[test]
fn every_claim_is_enforced_where_it_says() {
    let mut wrong = Vec::new();
    for (number, claim) in claims().into_iter().enumerate() {
        if claim.id != format!("S{}", number + 1) {
            wrong.push(format!("{} stands in the row of S{}", claim.id, number + 1));
        }
        if claim.enforced_by.is_empty() || claim.sources.is_empty() {
            wrong.push(format!("{} has no place or no source", claim.id));
        }
        for place in &claim.enforced_by {
            let Some((path, first, last)) = item(place) else {
                wrong.push(format!("{}: there is no {place}", claim.id));
                continue;
            };
            let text: Vec<String> = read(&path).lines().map(str::to_owned).collect();
            if !ids(&text[first - 1..last].join("\n")).contains(&claim.id) {
                wrong.push(format!("{}: {place} does not carry the id", claim.id));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn every_id_in_the_code_is_a_claim() {
    let known: BTreeSet<String> =
        rows("src/manual/claims.md", "Claims").into_iter().map(|row| row[0].clone()).collect();
    for path in sources().iter().filter(|path| path.starts_with("src/") || path.starts_with("sql/")) {
        let text = read(path);
        let comments =
            text.lines().filter(|line| ["// ", "/// ", "-- ", "//! "].iter().any(|mark| line.contains(mark)));
        let strange: Vec<String> = ids(&comments.collect::<Vec<_>>().join("\n")).difference(&known).cloned().collect();
        assert!(strange.is_empty(), "{path}: no claim {strange:?}");
    }
}

/// The names of all tests that begin with the id of a claim.
fn tests_of_claims() -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for path in sources() {
        let text = read(&path);
        let rust = text.lines().filter_map(|line| line.trim_start().strip_prefix("fn ")?.split('(').next());
        let script = text.lines().filter_map(|line| line.trim_start().strip_prefix("test(\"")?.split('"').next());
        let names = rust.map(str::to_owned).chain(script.map(str::to_owned));
        let is_of_a_claim = |name: &String| {
            let first = name.split(['_', ' ']).next().unwrap_or_default().to_ascii_uppercase();
            !ids(&first).is_empty()
        };
        found.extend(names.filter(is_of_a_claim));
    }
    found
}

#[test]
fn every_claim_has_its_tests_and_every_such_test_its_claim() {
    let named: BTreeSet<String> = claims().iter().flat_map(|claim| claim.tests.clone()).collect();
    assert_eq!(named, tests_of_claims());
    for claim in claims() {
        assert!(!claim.tests.is_empty(), "{} has no test", claim.id);
        for test in claim.tests {
            let id = test.split(['_', ' ']).next().unwrap_or_default().to_ascii_uppercase();
            assert_eq!(id, claim.id, "{test}");
        }
    }
}

/// The mutants: claim, path, the text that goes, the text that comes.
pub fn mutants() -> Vec<(String, String, String, String)> {
    let mut found: Vec<(String, String, String, String)> = Vec::new();
    for line in read("tests/mutants.txt").lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
        match (line.split_at_checked(1), found.last_mut()) {
            (Some(("-", rest)), Some(last)) => last.2 += &format!("{rest}\n"),
            (Some(("+", rest)), Some(last)) => last.3 += &format!("{rest}\n"),
            _ => {
                let (id, path) = line.split_once(' ').unwrap_or_else(|| panic!("{line}: a claim and a path"));
                found.push((id.to_owned(), path.to_owned(), String::new(), String::new()));
            }
        }
    }
    found
}

#[test]
fn every_claim_has_a_mutant_that_still_fits_the_code() {
    let mut wrong = Vec::new();
    for (id, path, old, new) in mutants() {
        let found = read(&path).matches(&old).count();
        if found != 1 || old.is_empty() || old == new {
            wrong.push(format!("{id}: {found} times in {path}:\n{old}"));
        }
    }
    let mutated: BTreeSet<String> = mutants().into_iter().map(|mutant| mutant.0).collect();
    let claimed: BTreeSet<String> = claims().into_iter().map(|claim| claim.id).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(mutated, claimed);
}

/// The requirements of ASVS 5.0 at level 1.
#[rustfmt::skip]
const LEVEL_1: &[&str] = &[
    "1.2.1", "1.2.2", "1.2.3", "1.2.4", "1.2.5", "1.3.1", "1.3.2", "1.5.1", "2.1.1", "2.2.1", "2.2.2", "2.3.1", "3.2.1",
    "3.2.2", "3.3.1", "3.4.1", "3.4.2", "3.5.1", "3.5.2", "3.5.3", "4.1.1", "4.4.1", "5.2.1", "5.2.2", "5.3.1", "5.3.2",
    "6.1.1", "6.2.1", "6.2.2", "6.2.3", "6.2.4", "6.2.5", "6.2.6", "6.2.7", "6.2.8", "6.3.1", "6.3.2", "6.4.1", "6.4.2",
    "7.2.1", "7.2.2", "7.2.3", "7.2.4", "7.4.1", "7.4.2", "8.1.1", "8.2.1", "8.2.2", "8.3.1", "9.1.1", "9.1.2", "9.1.3",
    "9.2.1", "10.4.1", "10.4.2", "10.4.3", "10.4.4", "10.4.5", "11.3.1", "11.3.2", "11.4.1", "12.1.1", "12.2.1",
    "12.2.2", "13.4.1", "14.2.1", "14.3.1", "15.1.1", "15.2.1", "15.3.1",
];

/// The requirements of ASVS 5.0 at level 2.
#[rustfmt::skip]
const LEVEL_2: &[&str] = &[
    "1.1.1", "1.1.2", "1.2.6", "1.2.7", "1.2.8", "1.2.9", "1.3.3", "1.3.4", "1.3.5", "1.3.6", "1.3.7", "1.3.8", "1.3.9",
    "1.3.10", "1.3.11", "1.4.1", "1.4.2", "1.4.3", "1.5.2", "2.1.2", "2.1.3", "2.2.3", "2.3.2", "2.3.3", "2.3.4",
    "2.4.1", "3.3.2", "3.3.3", "3.3.4", "3.4.3", "3.4.4", "3.4.5", "3.4.6", "3.5.4", "3.5.5", "3.7.1", "3.7.2", "4.1.2",
    "4.1.3", "4.2.1", "4.3.1", "4.3.2", "4.4.2", "4.4.3", "4.4.4", "5.1.1", "5.2.3", "5.4.1", "5.4.2", "5.4.3", "6.1.2",
    "6.1.3", "6.2.9", "6.2.10", "6.2.11", "6.2.12", "6.3.3", "6.3.4", "6.4.3", "6.4.4", "6.5.1", "6.5.2", "6.5.3",
    "6.5.4", "6.5.5", "6.6.1", "6.6.2", "6.6.3", "6.8.1", "6.8.2", "6.8.3", "6.8.4", "7.1.1", "7.1.2", "7.1.3", "7.3.1",
    "7.3.2", "7.4.3", "7.4.4", "7.4.5", "7.5.1", "7.5.2", "7.6.1", "7.6.2", "8.1.2", "8.2.3", "8.4.1", "9.2.2", "9.2.3",
    "9.2.4", "10.1.1", "10.1.2", "10.2.1", "10.2.2", "10.3.1", "10.3.2", "10.3.3", "10.3.4", "10.4.6", "10.4.7",
    "10.4.8", "10.4.9", "10.4.10", "10.4.11", "10.5.1", "10.5.2", "10.5.3", "10.5.4", "10.5.5", "10.6.1", "10.6.2",
    "10.7.1", "10.7.2", "10.7.3", "11.1.1", "11.1.2", "11.2.1", "11.2.2", "11.2.3", "11.3.3", "11.4.2", "11.4.3",
    "11.4.4", "11.5.1", "11.6.1", "12.1.2", "12.1.3", "12.3.1", "12.3.2", "12.3.3", "12.3.4", "13.1.1", "13.2.1",
    "13.2.2", "13.2.3", "13.2.4", "13.2.5", "13.3.1", "13.3.2", "13.4.2", "13.4.3", "13.4.4", "13.4.5", "14.1.1",
    "14.1.2", "14.2.2", "14.2.3", "14.2.4", "14.3.2", "14.3.3", "15.1.2", "15.1.3", "15.2.2", "15.2.3", "15.3.2",
    "15.3.3", "15.3.4", "15.3.5", "15.3.6", "15.3.7", "16.1.1", "16.2.1", "16.2.2", "16.2.3", "16.2.4", "16.2.5",
    "16.3.1", "16.3.2", "16.3.3", "16.3.4", "16.4.1", "16.4.2", "16.4.3", "16.5.1", "16.5.2", "16.5.3",
    "17.1.1", "17.2.1", "17.2.2", "17.2.3", "17.2.4", "17.3.1", "17.3.2",
];

#[test]
fn every_requirement_of_levels_1_and_2_is_claimed_or_not_claimed_with_a_reason() {
    let mut answered = BTreeMap::new();
    for row in rows("src/manual/claims.md", "ASVS 5.0, requirement by requirement") {
        for id in row[0].split(", ") {
            assert!(answered.insert(id.to_owned(), row[1].clone()).is_none(), "{id} is answered twice");
        }
    }
    let missing: Vec<&&str> = LEVEL_1.iter().chain(LEVEL_2).filter(|id| !answered.contains_key(**id)).collect();
    assert!(missing.is_empty(), "no answer to {missing:?}");
    let known: BTreeSet<String> =
        rows("src/manual/claims.md", "Claims").into_iter().map(|row| row[0].clone()).collect();
    for (requirement, answer) in answered {
        assert!(answer.len() > 1, "{requirement} has no answer");
        let strange: Vec<String> = ids(&answer).difference(&known).cloned().collect();
        assert!(strange.is_empty(), "{requirement}: no claim {strange:?}");
    }
}

/// The most lines that one walk leads through, comments included.
const WALK_MAX_LINES: usize = 250;

/// `UPDATE_WALKS=1` writes the ranges anew where code has moved.
#[test]
fn the_walks_lead_through_the_lines_that_they_name() {
    let mut page = read("src/manual/walks.md");
    let mut wrong = Vec::new();
    for walk in page.clone().split("\n## ").skip(1) {
        let mut total = 0;
        for step in walk.lines().filter(|line| line.starts_with(|c: char| c.is_ascii_digit())) {
            let names = quoted(step);
            let (_, first, last) = item(&names[0]).unwrap_or_else(|| panic!("there is no {}", names[0]));
            total += last - first + 1;
            let range = format!("{first}-{last}");
            if names[1] != range {
                page = page.replace(step, &step.replace(&format!("`{}`", names[1]), &format!("`{range}`")));
                wrong.push(format!("{} is {range}, not {}", names[0], names[1]));
            }
        }
        println!("walk {}: {total} lines", walk.lines().next().unwrap_or_default());
        assert!((50..=WALK_MAX_LINES).contains(&total), "{walk}: {total} lines");
    }
    if std::env::var_os("UPDATE_WALKS").is_some() {
        std::fs::write(super::root().join("src/manual/walks.md"), page).expect("the walks can be written");
        return;
    }
    assert!(wrong.is_empty(), "run UPDATE_WALKS=1 cargo test --test audit\n{wrong:#?}");
}
