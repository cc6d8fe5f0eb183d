//! Who owns which fields: `metadata.managedFields`, read and written.

use serde_json::{Map, Value};

use super::set::{FieldSet, SetError};

/// More managers that update than this, and the oldest are merged into one: controllers that name
/// themselves anew each time must not make an object grow for ever. Upstream's number.
const MAX_UPDATERS: usize = 10;
/// The manager that the oldest ones are merged into.
const ANCIENT: &str = "ancient-changes";

/// One manager's entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub manager: String,
    /// By server-side apply; else by an update of any other sort.
    pub applied: bool,
    pub api_version: String,
    /// Empty for the main endpoint.
    pub subresource: String,
    /// When the manager last took a field; "" is not known.
    pub time: String,
    pub fields: FieldSet,
}

impl Entry {
    /// Whether both are entries of the same manager. One that applies is the same at every version.
    pub fn is_same(&self, other: &Self) -> bool {
        self.applied == other.applied
            && self.manager == other.manager
            && self.subresource == other.subresource
            && (self.applied || self.api_version == other.api_version)
    }

    /// As conflicts name it: `"kubectl" with subresource "scale" using apps/v1`.
    pub fn shown(&self) -> String {
        let mut text = format!("{:?}", self.manager);
        if !self.subresource.is_empty() {
            text.push_str(&format!(" with subresource {:?}", self.subresource));
        }
        if !self.applied {
            text.push_str(&format!(" using {}", self.api_version));
        }
        text
    }

    fn into_value(self) -> Value {
        let mut map = Map::new();
        let operation = if self.applied { "Apply" } else { "Update" };
        let texts = [
            ("manager", self.manager),
            ("operation", operation.to_owned()),
            ("apiVersion", self.api_version),
            ("subresource", self.subresource),
            ("time", self.time),
        ];
        for (key, text) in texts {
            if !text.is_empty() {
                map.insert(key.to_owned(), text.into());
            }
        }
        map.insert("fieldsType".to_owned(), "FieldsV1".into());
        map.insert("fieldsV1".to_owned(), self.fields.into_value());
        Value::Object(map)
    }
}

/// All managers of one object.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Managers(pub Vec<Entry>);

/// Why `managedFields` cannot be read. The texts are upstream's where it has some.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ManagersError {
    #[error("operation must be `Apply` or `Update`")]
    Operation,
    #[error("apiVersion must not be empty")]
    NoVersion,
    #[error("missing fieldsType in managed fields entry {0}")]
    NoType(usize),
    #[error("invalid fieldsType {1:?} in managed fields entry {0}")]
    Type(usize, String),
    #[error("error decoding fieldsV1 of managed fields entry {0}: {1}")]
    Fields(usize, SetError),
}

impl Managers {
    /// Reads what this server has written.
    pub fn stored(list: Value) -> Self {
        let Value::Array(list) = list else { return Self::default() };
        let entry = |mut entry: Value| {
            let fields = FieldSet::trusted(entry["fieldsV1"].take());
            read_entry(&entry, fields)
        };
        Self(list.into_iter().map(entry).collect())
    }

    /// Reads what a client sends. Of two entries of one manager the later counts.
    pub fn sent(list: Value) -> Result<Self, ManagersError> {
        let mut managers = Self::default();
        let Value::Array(list) = list else { return Ok(managers) };
        for (at, mut value) in list.into_iter().enumerate() {
            if !matches!(value["operation"].as_str(), Some("Apply" | "Update")) {
                return Err(ManagersError::Operation);
            }
            if value["apiVersion"].as_str().unwrap_or_default().is_empty() {
                return Err(ManagersError::NoVersion);
            }
            match value["fieldsType"].as_str().unwrap_or_default() {
                "FieldsV1" => {}
                "" => return Err(ManagersError::NoType(at)),
                other => return Err(ManagersError::Type(at, other.to_owned())),
            }
            let fields = match value["fieldsV1"].take() {
                Value::Null => FieldSet::default(),
                set => FieldSet::parse(set).map_err(|error| ManagersError::Fields(at, error))?,
            };
            managers.put(read_entry(&value, fields));
        }
        Ok(managers)
    }

    /// The list for `metadata.managedFields`, in upstream's order; `None` where nobody owns anything.
    pub fn into_value(mut self) -> Option<Value> {
        if self.0.is_empty() {
            return None;
        }
        self.0.sort_by(|a, b| {
            let applied = b.applied.cmp(&a.applied);
            fn names(e: &Entry) -> [&str; 4] {
                [&e.time, &e.manager, &e.api_version, &e.subresource]
            }
            applied.then_with(|| names(a).cmp(&names(b)))
        });
        Some(self.0.into_iter().map(Entry::into_value).collect())
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn find(&self, entry: &Entry) -> Option<&Entry> {
        self.0.iter().find(|other| other.is_same(entry))
    }

    /// Adds an entry, in the place of the manager's previous one.
    pub fn put(&mut self, entry: Entry) {
        self.0.retain(|other| !other.is_same(&entry));
        self.0.push(entry);
    }

    /// Adds fields to a manager's, at `entry`'s time.
    pub fn give(&mut self, mut entry: Entry) {
        if let Some(previous) = self.find(&entry) {
            entry.fields.unite(&previous.fields);
        }
        self.put(entry);
    }

    /// Drops the managers that own nothing.
    pub fn drop_empty(&mut self) {
        self.0.retain(|entry| !entry.fields.is_empty());
    }

    /// Merges the oldest updaters, per version, until there are no more than upstream keeps.
    pub fn cap(&mut self) {
        let mut updaters: Vec<Entry> = Vec::new();
        let count = self.0.iter().filter(|entry| !entry.applied).count();
        if count <= MAX_UPDATERS {
            return;
        }
        self.0.retain(|entry| {
            if !entry.applied {
                updaters.push(entry.clone());
            }
            entry.applied
        });
        updaters.sort_by(|a, b| (&a.time, &a.manager).cmp(&(&b.time, &b.manager)));
        let mut left = count;
        let mut kept: Vec<Entry> = Vec::new();
        for entry in updaters {
            let same_version = kept.iter().position(|older| older.api_version == entry.api_version);
            match same_version.filter(|_| left > MAX_UPDATERS) {
                Some(at) => {
                    let bucket = &mut kept[at];
                    bucket.manager = ANCIENT.to_owned();
                    bucket.subresource.clear();
                    bucket.fields.unite(&entry.fields);
                    bucket.time = entry.time;
                    left -= 1;
                }
                None => kept.push(entry),
            }
        }
        kept.into_iter().for_each(|entry| self.give(entry));
    }
}

fn read_entry(value: &Value, fields: FieldSet) -> Entry {
    let text = |key: &str| value[key].as_str().unwrap_or_default().to_owned();
    Entry {
        manager: text("manager"),
        applied: value["operation"] == "Apply",
        api_version: text("apiVersion"),
        subresource: text("subresource"),
        time: text("time"),
        fields,
    }
}

/// Whether two lists say the same but for their times.
pub fn same_but_for_times(a: &Value, b: &Value) -> bool {
    let (Some(a), Some(b)) = (a.as_array(), b.as_array()) else { return a.is_null() && b.is_null() };
    // The order depends on the times, so the same entries may come in another one.
    let same = |a: &Value, b: &Value| {
        ["manager", "operation", "apiVersion", "subresource", "fieldsV1"].iter().all(|key| a[*key] == b[*key])
    };
    a.len() == b.len() && a.iter().all(|entry| b.iter().any(|other| same(entry, other)))
}
