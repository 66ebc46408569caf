//! Names with places for numbers, in two conventions: `layer{s}.{b}.conv{i}.{*}` is `stages.{s-1}.layers.{b}.layer.{i-1}.convolution.{*}`.
//!
//! `{x}` stands for a number without leading zeros, `{x+1}` and `{x-1}` for one that is counted from another beginning, `{x@}` for one that is
//! written as a letter (`a` is 0), and `{*}`, at the end, for whatever is left.

/// A piece of a template.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Piece<'a> {
    Text(&'a str),
    /// A number's letter, and what is added to it in this convention.
    Number(char, i64),
    /// The same, written as one of the letters a to z.
    Letter(char, i64),
    Rest,
}

/// What a name has at a template's places.
#[derive(Debug, Default, PartialEq)]
struct Found<'a> {
    numbers: Vec<(char, i64)>,
    rest: &'a str,
}

/// The name in the other convention, if it is of the template `from`.
pub fn translate(name: &str, from: &str, to: &str) -> Option<String> {
    let found = find(name, &pieces(from))?;
    let mut out = String::new();
    for piece in pieces(to) {
        let number = |letter: char, more: i64| {
            let (_, n) = found.numbers.iter().find(|(known, _)| *known == letter)?;
            u64::try_from(n.checked_add(more)?).ok()
        };
        match piece {
            Piece::Text(text) => out.push_str(text),
            Piece::Number(letter, more) => out.push_str(&number(letter, more)?.to_string()),
            Piece::Letter(letter, more) => {
                out.push(('a'..='z').nth(usize::try_from(number(letter, more)?).ok()?)?);
            }
            Piece::Rest => out.push_str(found.rest),
        }
    }
    Some(out)
}

fn pieces(template: &str) -> Vec<Piece<'_>> {
    let mut pieces = Vec::new();
    let mut left = template;
    while let Some((text, behind)) = left.split_once('{') {
        let (place, after) = behind.split_once('}').expect("a place ends");
        if !text.is_empty() {
            pieces.push(Piece::Text(text));
        }
        let letter = place.chars().next().expect("a place has a name");
        let added = |more: &str| if more.is_empty() { 0 } else { more.parse().expect("a number is added") };
        pieces.push(match &place[1..] {
            _ if letter == '*' => Piece::Rest,
            more => match more.strip_suffix('@') {
                Some(more) => Piece::Letter(letter, added(more)),
                None => Piece::Number(letter, added(more)),
            },
        });
        left = after;
    }
    if !left.is_empty() {
        pieces.push(Piece::Text(left));
    }
    pieces
}

fn find<'a>(name: &'a str, pieces: &[Piece<'_>]) -> Option<Found<'a>> {
    let mut found = Found::default();
    let mut left = name;
    for piece in pieces {
        match *piece {
            Piece::Text(text) => left = left.strip_prefix(text)?,
            Piece::Number(letter, more) => {
                let digits = left.len() - left.trim_start_matches(|c: char| c.is_ascii_digit()).len();
                let (number, after) = left.split_at(digits);
                if number.len() > 1 && number.starts_with('0') {
                    return None;
                }
                found.numbers.push((letter, number.parse::<i64>().ok()?.checked_sub(more)?));
                left = after;
            }
            Piece::Letter(letter, more) => {
                let first = left.chars().next().filter(char::is_ascii_lowercase)?;
                found.numbers.push((letter, i64::from(first as u32 - 'a' as u32) - more));
                left = &left[1..];
            }
            Piece::Rest => {
                found.rest = left;
                left = "";
            }
        }
    }
    left.is_empty().then_some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_go_there_and_back() {
        let (ours, theirs) =
            ("layer{s}.{b}.conv{i}.{*}", "stages.{s-1}.layers.{b}.layer.{i-1}.convolution.{*}");
        let name = "layer4.12.conv3.weight";
        let there = translate(name, ours, theirs).unwrap();
        assert_eq!(there, "stages.3.layers.12.layer.2.convolution.weight");
        assert_eq!(translate(&there, theirs, ours).unwrap(), name);
        assert_eq!(translate("0.weight", "{s+3}.{*}", "layer{s}.{*}"), None, "no layer is below 0");
        assert_eq!(translate("7.0.bn1.bias", "{s+3}.{*}", "layer{s}.{*}").unwrap(), "layer4.0.bn1.bias");
    }

    #[test]
    fn numbers_may_be_letters() {
        let (ours, theirs) = ("layer{s}.{b}.conv{i}.weight", "res{s+1}{b@}_branch2{i-1@}/kernel");
        for (name, there) in [
            ("layer1.0.conv1.weight", "res2a_branch2a/kernel"),
            ("layer3.5.conv3.weight", "res4f_branch2c/kernel"),
            ("layer3.25.conv2.weight", "res4z_branch2b/kernel"),
        ] {
            assert_eq!(translate(name, ours, theirs).as_deref(), Some(there));
            assert_eq!(translate(there, theirs, ours).as_deref(), Some(name));
        }
        for name in ["layer3.26.conv1.weight", "layer1.0.conv0.weight"] {
            assert_eq!(translate(name, ours, theirs), None, "{name}: no letter");
        }
        for name in
            ["res2A_branch2a/kernel", "res2_branch2a/kernel", "res2a_branch2/kernel", "res2é_branch2a/kernel"]
        {
            assert_eq!(translate(name, theirs, ours), None, "{name}");
        }
    }

    #[test]
    fn what_is_not_of_the_template_has_no_name() {
        let to = |name| translate(name, "layer{s}.{b}.{*}", "x{s}.{b}.{*}");
        assert_eq!(to("layer1.0."), Some("x1.0.".into()));
        for name in [
            "layer.0.a",
            "layer1.a",
            "layer01.0.a",
            "Layer1.0.a",
            "layer1.0",
            "layer99999999999999999999.0.a",
            "",
        ] {
            assert_eq!(to(name), None, "{name}");
        }
        assert_eq!(translate("conv1.weight.x", "conv1.weight", "a"), None);
        assert_eq!(translate("layer0.0.a", "layer{s}.{b}.{*}", "x{s-1}.{b}.{*}"), None);
    }
}
