//! Puts a role's configuration together from its sources.

use std::path::Path;

use anyhow::{Context as _, bail};
use serde_json::Value as Json;
use toml::{Table, Value};

use super::{PATH_FIELDS, RoleFile};

/// Largest configuration file, in bytes.
const MAX_FILE_BYTES: u64 = 1024 * 1024;

/// Values from flags: a field's full name and its text.
pub(crate) type Overrides = Vec<(&'static str, String)>;

/// Reads `file`, then `environment`, then `flags`; later ones win.
///
/// # Errors
/// Names the file, variable or flag, the field, and what is wrong.
pub(crate) fn load<T: RoleFile>(
    file: Option<&Path>,
    environment: impl Iterator<Item = (String, String)>,
    flags: Overrides,
) -> anyhow::Result<T> {
    let fields = fields::<T>()?;
    let mut table = match file {
        None => Table::new(),
        Some(path) => read(path)?,
    };
    let shown = file.map(|path| path.display().to_string()).unwrap_or_default();
    refuse_unknown(&table, "", &fields).with_context(|| format!("the configuration {shown}"))?;
    if let Some(directory) = file.and_then(Path::parent) {
        for field in PATH_FIELDS {
            resolve_path(&mut table, field, directory);
        }
    }
    // What is wrong in the file is said of the file, before anything else changes it.
    if file.is_some() {
        let checked: Result<T, _> = Value::Table(table.clone()).try_into();
        checked.map_err(|error| anyhow::anyhow!("{shown}: {}", one_line(&error)))?;
    }
    for (name, text) in environment {
        if let Some(field) = fields.iter().find(|field| variable(T::ROLE, &field.name) == name) {
            put(&mut table, field, &text).with_context(|| format!("the environment variable {name}"))?;
            try_whole::<T>(&table).with_context(|| format!("the environment variable {name}"))?;
        }
    }
    for (name, text) in flags {
        let field = fields.iter().find(|field| field.name == name);
        let field = field.with_context(|| format!("{name} is no field of the {}", T::ROLE))?;
        put(&mut table, field, &text).with_context(|| format!("the flag for {name}"))?;
    }
    try_whole(&table)
}

/// The environment variable that overrides a field.
pub(super) fn variable(role: &str, field: &str) -> String {
    format!("COCOON_{role}_{}", field.replace('.', "_")).to_uppercase()
}

/// A field: its name with the tables it is in (`root.file`), and its default.
pub(super) struct Field {
    pub(super) name: String,
    pub(super) default: Json,
}

/// All fields of a role.
pub(super) fn fields<T: RoleFile>() -> anyhow::Result<Vec<Field>> {
    let mut fields = Vec::new();
    collect(String::new(), serde_json::to_value(T::default())?, &mut fields);
    Ok(fields)
}

fn collect(name: String, value: Json, fields: &mut Vec<Field>) {
    match value {
        Json::Object(members) => {
            for (key, value) in members {
                let name = if name.is_empty() { key } else { format!("{name}.{key}") };
                collect(name, value, fields);
            }
        }
        default => fields.push(Field { name, default }),
    }
}

/// The text of a file of at most `max_bytes`.
///
/// # Errors
/// It cannot be read, or is longer.
pub(crate) fn read_text(path: &Path, max_bytes: u64) -> anyhow::Result<String> {
    use std::io::Read as _;
    let mut text = String::new();
    let length = std::fs::File::open(path)?.take(max_bytes + 1).read_to_string(&mut text)?;
    if length as u64 > max_bytes {
        bail!("it is over {max_bytes} bytes; is it the right file?");
    }
    Ok(text)
}

fn read(path: &Path) -> anyhow::Result<Table> {
    let shown = path.display();
    let text = read_text(path, MAX_FILE_BYTES).with_context(|| {
        format!("cannot read the configuration {shown}; crates/cocoon/examples has one to start from")
    })?;
    text.parse().map_err(|error| anyhow::anyhow!("{shown} is not TOML: {error}"))
}

/// Names what does not exist, and the nearest thing that does.
fn refuse_unknown(table: &Table, prefix: &str, fields: &[Field]) -> anyhow::Result<()> {
    for (key, value) in table {
        let name = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
        if fields.iter().any(|field| field.name == name) {
            continue;
        }
        let inside = format!("{name}.");
        if fields.iter().any(|field| field.name.starts_with(&inside)) {
            let Value::Table(table) = value else { bail!("`{name}` is a table: write [{name}]") };
            refuse_unknown(table, &name, fields)?;
            continue;
        }
        bail!("there is no field `{name}`; {}", suggestion(&name, fields));
    }
    Ok(())
}

fn suggestion(name: &str, fields: &[Field]) -> String {
    let last = |name: &str| name.rsplit('.').next().unwrap_or_default().to_owned();
    // Close in spelling, or the right name in the wrong table.
    let distance = |field: &Field| {
        let spelling = strsim::damerau_levenshtein(name, &field.name);
        let misplaced = 1 + strsim::damerau_levenshtein(&last(name), &last(&field.name));
        spelling.min(misplaced)
    };
    let nearest = fields.iter().min_by_key(|field| distance(field));
    match nearest {
        Some(field) if distance(field) <= 1 + last(name).chars().count() / 3 => {
            format!("did you mean `{}`?", field.name)
        }
        _ => {
            let names: Vec<&str> = fields.iter().map(|field| field.name.as_str()).collect();
            format!("there are {}", names.join(", "))
        }
    }
}

/// Puts a text into the place and the type of a field.
fn put(table: &mut Table, field: &Field, text: &str) -> anyhow::Result<()> {
    let value = match &field.default {
        Json::Bool(_) => {
            Value::Boolean(text.parse().with_context(|| format!("{text:?} is not true or false"))?)
        }
        Json::Number(_) => Value::Integer(text.parse().with_context(|| format!("{text:?} is not a number"))?),
        Json::Array(_) => {
            let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
            Value::Array(parts.map(|part| Value::String(part.to_owned())).collect())
        }
        // A field without a default is a text or a number; no such text is all digits.
        Json::Null => text.parse().map_or_else(|_| Value::String(text.to_owned()), Value::Integer),
        _ => Value::String(text.to_owned()),
    };
    let mut table = table;
    let mut parts = field.name.split('.').peekable();
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            table.insert(part.to_owned(), value);
            break;
        }
        let inner = table.entry(part).or_insert_with(|| Value::Table(Table::new()));
        table = inner.as_table_mut().with_context(|| format!("`{part}` is a table: write [{part}]"))?;
    }
    Ok(())
}

fn resolve_path(table: &mut Table, field: &str, directory: &Path) {
    let (tables, key) = field.rsplit_once('.').unwrap_or(("", field));
    let table =
        if tables.is_empty() { Some(table) } else { table.get_mut(tables).and_then(Value::as_table_mut) };
    if let Some(Value::String(path)) = table.and_then(|table| table.get_mut(key)) {
        // TOML text is UTF-8, and so is the result where the directory's name is; where it is not, the path stays as
        // it is written.
        if let Some(joined) = directory.join(&*path).to_str() {
            *path = joined.to_owned();
        }
    }
}

fn try_whole<T: RoleFile>(table: &Table) -> anyhow::Result<T> {
    Value::Table(table.clone()).try_into().map_err(|error| anyhow::anyhow!("{}", one_line(&error)))
}

/// The parser's message and the field it is about.
fn one_line(error: &toml::de::Error) -> String {
    error.to_string().trim().replace('\n', " ")
}
