//! Keys and usage as text.

use cocoon_ledger::Nanoton;
use serde_json::Value;

use super::reach::Reach;
use crate::calendar;
use crate::terminal::{Style, one_line};

/// A key's secret, which is shown this once.
pub(super) fn secret(key: &Value, reach: &Reach, done: &str) -> String {
    let style = Style::stdout();
    let secret = key["secret"].as_str().unwrap_or_default();
    let when = if reach.is_running() { "It is good at once." } else { "It is good once the gateway runs." };
    format!(
        "{} {when}\n\n  {}\n\n{}\n\n{}",
        style.good(done),
        style.bold(secret),
        style.warn("Keep it now: it is not shown again. Clients send it as their API key."),
        self::key(key)
    )
}

/// A key that was revoked.
pub(super) fn revoked(key: &Value) -> String {
    format!("{} is revoked, for good. It spent {}.\n", text(&key["name"]), coins(&key["spent_nanoton"]))
}

/// One key.
pub(super) fn key(key: &Value) -> String {
    let style = Style::stdout();
    let mut out = String::new();
    let mut line = |name: &str, value: String| {
        out += &format!("  {} {value}\n", style.dim(&format!("{name:<16}")));
    };
    line("Name", text(&key["name"]));
    line("Id", format!("{}, secret begins with {}", text(&key["id"]), text(&key["hint"])));
    line("State", text(&key["state"]));
    line("Made", time(&key["created_unix_seconds"]));
    line(
        "Ends",
        if key["expires_unix_seconds"].is_null() {
            "never".to_owned()
        } else {
            time(&key["expires_unix_seconds"])
        },
    );
    line("Models", words(&key["models"], "all"));
    line("Endpoints", words(&key["endpoints"], "all that models answer"));
    line(
        "Per minute",
        format!(
            "{} requests, {} tokens",
            limit(&key["requests_per_minute"]),
            limit(&key["tokens_per_minute"])
        ),
    );
    line(
        "At a time",
        format!("{} requests; {} under way", limit(&key["concurrent_requests"]), key["requests_under_way"]),
    );
    line("Spent", of(&key["spent_nanoton"], &key["budget_nanoton"]));
    line("Spent today", of(&key["spent_today_nanoton"], &key["budget_per_day_nanoton"]));
    if key["reserved_nanoton"] != 0 {
        line("Set aside", coins(&key["reserved_nanoton"]));
    }
    if key["unsettled_nanoton"] != 0 {
        let note = "counted as spent without an agreed cost (--forgive-unsettled gives it back)";
        line("Unsettled", format!("{}, {note}", coins(&key["unsettled_nanoton"])));
    }
    out
}

/// All keys.
pub(super) fn list(keys: &Value) -> String {
    let rows: Vec<_> = keys["data"].as_array().into_iter().flatten().collect();
    if rows.is_empty() {
        return "There are no keys. `cocoon keys add NAME` makes one.\n".to_owned();
    }
    let mut table =
        vec![["NAME", "STATE", "SECRET", "MODELS", "RPM", "TPM", "SPENT TODAY", "SPENT"].map(str::to_owned)];
    for key in rows {
        table.push([
            text(&key["name"]),
            text(&key["state"]),
            format!("{}...", text(&key["hint"])),
            words(&key["models"], "*"),
            limit(&key["requests_per_minute"]),
            limit(&key["tokens_per_minute"]),
            of(&key["spent_today_nanoton"], &key["budget_per_day_nanoton"]),
            of(&key["spent_nanoton"], &key["budget_nanoton"]),
        ]);
    }
    columns(&table)
}

/// Usage, line by line, and the sums.
pub(super) fn usage(told: &Value) -> String {
    let head =
        ["DAY", "KEY", "MODEL", "ENDPOINT", "REQUESTS", "ERRORS", "PROMPT", "CACHED", "COMPLETION", "COST"];
    let mut table = vec![head.map(str::to_owned)];
    let row = |row: &Value, day: String, key: String, model: String| {
        let count = |name: &str| row[name].to_string();
        [
            day,
            key,
            model,
            text(&row["endpoint"]),
            count("requests"),
            count("errors"),
            count("prompt_tokens"),
            count("cached_tokens"),
            count("completion_tokens"),
            coins(&row["cost_nanoton"]),
        ]
    };
    for line in told["data"].as_array().into_iter().flatten() {
        let key = if line["key_name"].is_null() { &line["key"] } else { &line["key_name"] };
        table.push(row(line, text(&line["day"]), text(key), text(&line["model"])));
    }
    let span = format!("{} to {}", text(&told["from"]), text(&told["to"]));
    if table.len() == 1 {
        return format!("Nothing was used from {span}.\n");
    }
    table.push(row(&told["totals"], "in all".to_owned(), String::new(), String::new()));
    columns(&table)
}

fn columns<const N: usize>(table: &[[String; N]]) -> String {
    let mut widths = [0; N];
    for row in table {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut out = String::new();
    for row in table {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(widths) {
            line += cell;
            line += &" ".repeat(width - cell.chars().count() + 2);
        }
        out += line.trim_end();
        out.push('\n');
    }
    out
}

/// Words of others, on one line.
fn text(value: &Value) -> String {
    one_line(value.as_str().unwrap_or_default())
}

fn words(list: &Value, none: &str) -> String {
    let words: Vec<_> = list.as_array().into_iter().flatten().map(text).collect();
    if words.is_empty() { none.to_owned() } else { words.join(", ") }
}

fn limit(value: &Value) -> String {
    value.as_u64().map_or_else(|| "-".to_owned(), |limit| limit.to_string())
}

fn coins(value: &Value) -> String {
    Nanoton(value.as_u64().unwrap_or(0)).to_string()
}

fn of(spent: &Value, budget: &Value) -> String {
    match budget.as_u64() {
        Some(budget) => format!("{} of {}", coins(spent), Nanoton(budget)),
        None => coins(spent),
    }
}

fn time(value: &Value) -> String {
    calendar::utc(value.as_u64().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_table_lines_up_and_shows_names_of_others_as_plain_text() {
        let keys = json!({"data": [
            {"name": "a\u{1b}[31m", "state": "active", "hint": "ck-abcdef", "models": ["*"], "endpoints": [],
             "spent_nanoton": 1_500_000_000_u64, "spent_today_nanoton": 0, "budget_nanoton": 2_000_000_000_u64},
        ]});
        let shown = list(&keys);
        assert!(!shown.contains('\u{1b}'), "{shown}");
        assert!(shown.contains("1.5 TON of 2 TON") && shown.starts_with("NAME"), "{shown}");
        assert!(list(&json!({"data": []})).contains("cocoon keys add"));
        assert!(usage(&json!({"from": "a", "to": "b", "data": []})).contains("Nothing"));
    }
}
