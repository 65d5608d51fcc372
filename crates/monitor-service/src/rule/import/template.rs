//! Texts: templates of Prometheus become placeholders of ours.

/// Converts a text; the error is one line for a person. Of an increase the value is known per second only, so a text that
/// tells it would be wrong.
pub(super) fn convert(text: &str, is_increase: bool) -> Result<String, String> {
    let mut converted = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((plain, after)) = rest.split_once("{{") {
        let (inside, after) = after.split_once("}}").ok_or("a {{ has no }}")?;
        plain_text(plain, &mut converted)?;
        let placeholder = placeholder(inside.trim_matches('-').trim())
            .ok_or_else(|| format!("{{{{{inside}}}}} is not understood: $value and $labels.NAME are"))?;
        if is_increase && !placeholder.starts_with("{label.") {
            return Err("the value of an increase is not known here; write rate() to tell it".to_owned());
        }
        converted.push_str(&placeholder);
        rest = after;
    }
    plain_text(rest, &mut converted)?;
    Ok(converted)
}

fn plain_text(text: &str, converted: &mut String) -> Result<(), String> {
    if text.contains('{') {
        return Err("a { that begins no template has a meaning here".to_owned());
    }
    converted.push_str(text);
    Ok(())
}

fn placeholder(inside: &str) -> Option<String> {
    if let Some(name) = inside.strip_prefix("$labels.") {
        let legal = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
        return (!name.is_empty() && name.chars().all(legal)).then(|| format!("{{label.{name}}}"));
    }
    let words: Vec<&str> = inside.split_whitespace().collect();
    match words[..] {
        ["$value"] | ["$value", "|", "humanize" | "humanize1024" | "humanizeDuration"] => {
            Some("{value}".to_owned())
        }
        ["$value", "|", "humanizePercentage"] => Some("{percent}".to_owned()),
        ["$value", "|", "printf", format] | ["printf", format, "$value"] => {
            let is_number = format.starts_with("\"%") && format.ends_with("f\"") && !format.contains(' ');
            is_number.then(|| "{value}".to_owned())
        }
        _ => None,
    }
}
