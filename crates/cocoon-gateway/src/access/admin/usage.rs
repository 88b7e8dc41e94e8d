//! Usage by day, key, model and endpoint, as JSON or CSV.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;

use cocoon_access::{Counts, Day, DayUsage, KeyId, UsageRow, day_prefix};
use cocoon_openai::ApiError;
use cocoon_store::{Store as _, StoreError};
use serde::Serialize;
use serde_json::{Value, json};

use super::{Reply, fields};
use crate::access::Access;
use crate::access::keeper::PAGE;

/// Days that are told where none are named.
const DEFAULT_DAYS: u32 = 30;
/// Most days between two that are named: each is read from the disk.
const MAX_DAYS: u32 = 366;
/// Most lines in one answer.
const MAX_LINES: usize = 50_000;

const CSV_HEAD: &str = "day,key,key_name,model,endpoint,requests,errors,prompt_tokens,cached_tokens,completion_tokens,\
                        reasoning_tokens,audio_tokens,cost_nanoton\r\n";

/// What is asked for.
#[derive(Debug, Clone)]
struct Wanted {
    from: Day,
    to: Day,
    key: Option<KeyId>,
    model: Option<String>,
    csv: bool,
}

#[derive(Debug, Serialize)]
struct Line {
    day: Day,
    key: KeyId,
    key_name: Option<String>,
    #[serde(flatten)]
    row: UsageRow,
}

impl Access {
    /// The usage that `query` asks for; of one key alone where it is the key itself that asks.
    pub(super) async fn usage(self: &Arc<Self>, query: &str, own: Option<KeyId>) -> Result<Reply, ApiError> {
        let wanted = self.wanted(query, own)?;
        let access = Arc::clone(self);
        let looked = tokio::task::spawn_blocking(move || {
            let lines = access.lines(&wanted)?;
            Ok::<_, ApiError>((wanted, lines))
        });
        let (wanted, lines) = looked.await.map_err(|_| failed("the look was given up"))??;
        if wanted.csv {
            let body = to_csv(&lines).into();
            return Ok(Reply { status: 200, content_type: "text/csv; charset=utf-8", body });
        }
        let mut totals = Counts::default();
        lines.iter().for_each(|line| totals.add(&line.row.counts));
        let mut value = json!({
            "object": "usage", "from": wanted.from, "to": wanted.to, "data": lines, "totals": totals,
        });
        if let (Some(own), Value::Object(fields)) = (own, &mut value) {
            let view = self.desk().view(own, self.now());
            let view = view.map_or(Value::Null, |view| self.to_json(&view));
            fields.insert("key".to_owned(), view);
        }
        Ok(Reply::json(200, &value))
    }

    fn wanted(&self, query: &str, own: Option<KeyId>) -> Result<Wanted, ApiError> {
        let bad = |name: &str, words: String| ApiError::invalid_request(Some(name), "invalid_value", words);
        let (mut from, mut to, mut key, mut model, mut csv) = (None, None, own, None, false);
        for (name, value) in fields(query) {
            let day = || value.parse::<Day>().map_err(|error| bad(&name, format!("{name}: {error}.")));
            match name.as_str() {
                "from" => from = Some(day()?),
                "to" => to = Some(day()?),
                "model" => model = Some(value),
                "format" if value == "json" => csv = false,
                "format" if value == "csv" => csv = true,
                "key" if own.is_none() && value == KeyId::NONE.to_string() => key = Some(KeyId::NONE),
                "key" if own.is_none() => {
                    let found = self.desk().find(&value);
                    key = Some(found.ok_or_else(|| bad("key", "There is no such key.".to_owned()))?);
                }
                _ => {
                    let words = "Usage is asked for with from and to (YYYY-MM-DD), key, model, and format (json or csv).";
                    return Err(bad(&name, words.to_owned()));
                }
            }
        }
        let to = to.unwrap_or(self.now().day());
        let from = from.unwrap_or(to.minus(DEFAULT_DAYS - 1));
        if from > to || to.since(from) > MAX_DAYS {
            return Err(bad("from", format!("`from` comes before `to`, by at most {MAX_DAYS} days.")));
        }
        Ok(Wanted { from, to, key, model, csv })
    }

    /// Waits for the disk.
    fn lines(&self, wanted: &Wanted) -> Result<Vec<Line>, ApiError> {
        let mut days: BTreeMap<(Day, KeyId), DayUsage> = BTreeMap::new();
        if let Some(key) = wanted.key {
            let mut day = wanted.from;
            while day <= wanted.to {
                days.insert((day, key), self.usage_of(day, key).map_err(|error| failed(&error))?);
                if day == day.next() {
                    break;
                }
                day = day.next();
            }
        } else {
            self.stored_days(wanted, &mut days)?;
            // What is in memory is newer.
            let desk = self.desk();
            let recent = desk.usage_between(wanted.from, wanted.to);
            days.extend(recent.map(|(day, key, usage)| ((day, key), usage.clone())));
        }
        let mut lines = Vec::new();
        for ((day, key), usage) in days {
            let key_name = self.desk().name(key).map(str::to_owned);
            let rows = usage
                .rows()
                .into_iter()
                .filter(|row| wanted.model.as_ref().is_none_or(|model| row.model == *model));
            lines.extend(rows.map(|row| Line { day, key, key_name: key_name.clone(), row }));
            if lines.len() > MAX_LINES {
                let words =
                    format!("That is more than {MAX_LINES} lines; ask for fewer days, or for one key.");
                return Err(ApiError::invalid_request(Some("from"), "invalid_value", words));
            }
        }
        Ok(lines)
    }

    fn stored_days(
        &self,
        wanted: &Wanted,
        days: &mut BTreeMap<(Day, KeyId), DayUsage>,
    ) -> Result<(), ApiError> {
        let all = day_prefix(None);
        // Just before the first entry of the first day.
        let mut after = day_prefix(Some(wanted.from));
        loop {
            let page = self
                .store
                .list(&all, Some(&after), PAGE)
                .map_err(|error: StoreError| failed(&error.to_string()))?;
            let Some((last, _)) = page.last() else { return Ok(()) };
            after.clone_from(last);
            for (entry, value) in page {
                let Some((day, key)) = entry[all.len()..].split_once('/') else { continue };
                let (Ok(day), Ok(key)) = (day.parse::<Day>(), key.parse::<KeyId>()) else { continue };
                if day > wanted.to {
                    return Ok(());
                }
                let usage = DayUsage::from_json(&value).map_err(|error| failed(&error.to_string()))?;
                days.insert((day, key), usage);
                if days.len() > MAX_LINES {
                    // It is refused for its lines.
                    return Ok(());
                }
            }
        }
    }
}

fn failed(why: &str) -> ApiError {
    ApiError::new(500, "api_error", "store_failed", format!("The usage cannot be read: {why}"))
}

/// RFC 4180, with names that a spreadsheet cannot take for formulas.
fn to_csv(lines: &[Line]) -> String {
    let mut text = CSV_HEAD.to_owned();
    for Line { day, key, key_name, row } in lines {
        let (name, model) = (quoted(key_name.as_deref().unwrap_or_default()), quoted(&row.model));
        let counts = &row.counts;
        // Writing to a string cannot fail.
        let _ = write!(
            text,
            "{day},{key},{name},{model},{},{},{},{},{},{},{},{},{}\r\n",
            row.endpoint,
            counts.requests,
            counts.errors,
            counts.prompt_tokens,
            counts.cached_tokens,
            counts.completion_tokens,
            counts.reasoning_tokens,
            counts.audio_tokens,
            counts.cost_nanoton
        );
    }
    text
}

fn quoted(text: &str) -> String {
    let guard = if text.starts_with(['=', '+', '-', '@', '\t', '\r']) { "'" } else { "" };
    format!("\"{guard}{}\"", text.replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_spreadsheet_takes_no_name_for_a_formula_and_no_quote_for_an_end() {
        let counts = Counts { requests: 1, cost_nanoton: 7, ..Counts::default() };
        let row = UsageRow { model: "=1+\"x\",\n".to_owned(), endpoint: "chat".to_owned(), counts };
        let day = "2026-11-29".parse().unwrap();
        let text = to_csv(&[Line { day, key: KeyId::NONE, key_name: None, row }]);
        assert_eq!(text.lines().next(), Some(CSV_HEAD.trim_end()));
        assert!(
            text.ends_with("2026-11-29,none,\"\",\"'=1+\"\"x\"\",\n\",chat,1,0,0,0,0,0,0,7\r\n"),
            "{text}"
        );
    }
}
