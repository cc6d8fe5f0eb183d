//! Sets of fields, kept in the form in which they travel: the JSON of `FieldsV1`.
//!
//! A set is a tree of path elements. An element is a key: `f:name` a field, `k:{…}` the element of a
//! list with these keys, `v:…` the element of a set with this value, `i:n` an index. A node that is
//! itself in the set is either empty or holds the key `.`; a node that is not, only leads to others.
//!
//! Nothing is decoded or encoded on the way from one version of an object to the next, so a write that
//! touches three fields costs three short walks, however much a manager owns. The price is that the
//! invariant above is this module's to keep: no node stays empty that was not a member.

use serde_json::{Map, Value};

type Node = Map<String, Value>;

const SELF: &str = ".";

/// A set of fields of one object.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FieldSet(Node);

/// One step of a path, as the walks over objects have it at hand.
#[derive(Debug, Clone, Copy)]
pub enum Step<'a> {
    Field(&'a str),
    /// The encoded key of a list element: `k:…` or `v:…`.
    Element(&'a str),
}

impl Step<'_> {
    fn key(&self) -> String {
        match self {
            Self::Field(name) => format!("f:{name}"),
            Self::Element(key) => (*key).to_owned(),
        }
    }
}

/// Why a JSON value is no field set.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SetError {
    #[error("a field set must be a JSON object")]
    NoObject,
    #[error("path element {0:?} is malformed")]
    Element(String),
}

impl FieldSet {
    /// Reads a set that a client sends, and makes it canonical. Elements of a sort that is not known
    /// are left out, as upstream does for the sake of newer servers.
    pub fn parse(value: Value) -> Result<Self, SetError> {
        Ok(Self(parse(value, true)?))
    }

    /// A set that this module has written before.
    pub fn trusted(value: Value) -> Self {
        match value {
            Value::Object(node) => Self(node),
            _ => Self::default(),
        }
    }

    pub fn into_value(self) -> Value {
        Value::Object(self.0)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds the field at the end of `path`.
    pub fn insert(&mut self, path: &[Step<'_>]) {
        insert(&mut self.0, path);
    }

    /// Whether the field itself is in the set.
    pub fn contains(&self, path: &[Step<'_>]) -> bool {
        let mut node = &self.0;
        for step in path {
            match node.get(&step.key()) {
                Some(Value::Object(child)) => node = child,
                _ => return false,
            }
        }
        !path.is_empty() && is_member(node)
    }

    /// Takes away a declared field and all that lies below it.
    pub fn remove_tree(&mut self, names: &[&str]) {
        remove(&mut self.0, names, true);
    }

    /// Takes away a declared field alone.
    pub fn remove_field(&mut self, names: &[&str]) {
        remove(&mut self.0, names, false);
    }

    /// Adds what `other` has.
    pub fn unite(&mut self, other: &Self) {
        unite(&mut self.0, &other.0);
    }

    /// Takes away the fields of `other`, each by itself: what lies below a field stays.
    pub fn subtract(&mut self, other: &Self) {
        subtract(&mut self.0, &other.0);
    }

    pub fn intersection(&self, other: &Self) -> Self {
        Self(intersection(&self.0, &other.0))
    }

    /// The set below one element.
    pub fn below(&self, step: &Step<'_>) -> Below<'_> {
        Below(Some(&self.0)).below(step)
    }

    pub fn root(&self) -> Below<'_> {
        Below(Some(&self.0))
    }

    /// Every field, as the keys of its path, in the order of the encoding.
    pub fn paths(&self) -> Vec<Vec<&str>> {
        let mut paths = Vec::new();
        collect(&self.0, &mut Vec::new(), &mut paths);
        paths
    }

    pub(super) fn from_node(node: Node) -> Self {
        Self(node)
    }
}

/// What a set has below one node; the walks that follow an object down hold it.
#[derive(Clone, Copy)]
pub struct Below<'a>(Option<&'a Node>);

impl<'a> Below<'a> {
    pub fn below(self, step: &Step<'_>) -> Below<'a> {
        Below(self.0.and_then(|node| node.get(&step.key())).and_then(Value::as_object))
    }

    /// Whether the element at this node is itself in the set. Not for the root.
    pub fn is_member(self) -> bool {
        self.0.is_some_and(is_member)
    }

    /// Whether anything lies below.
    pub fn has_children(self) -> bool {
        self.0.is_some_and(|node| node.keys().any(|key| key != SELF))
    }

    /// The keys of the elements below, with their nodes.
    pub fn children(self) -> impl Iterator<Item = (&'a str, Below<'a>)> {
        let nodes = self.0.into_iter().flatten().filter(|(key, _)| *key != SELF);
        nodes.map(|(key, node)| (key.as_str(), Below(node.as_object())))
    }
}

/// Writes one node of a set: `member` is whether the element itself is in it.
pub(super) fn node(mut children: Node, member: bool) -> Option<Value> {
    match (children.is_empty(), member) {
        (true, false) => return None,
        (false, true) => {
            children.insert(SELF.to_owned(), Value::Object(Node::new()));
        }
        _ => {}
    }
    Some(Value::Object(children))
}

fn is_member(node: &Node) -> bool {
    node.is_empty() || node.contains_key(SELF)
}

fn parse(value: Value, root: bool) -> Result<Node, SetError> {
    let Value::Object(sent) = value else { return Err(SetError::NoObject) };
    let member = !root && is_member(&sent);
    let mut node = Node::new();
    for (key, child) in sent {
        if key == SELF {
            continue;
        }
        let Some(key) = canonical(key)? else { continue };
        let child = parse(child, false)?;
        merge_child(&mut node, key, child);
    }
    if member && !node.is_empty() {
        node.insert(SELF.to_owned(), Value::Object(Node::new()));
    }
    // A node whose elements were all unknown would count as a member; that errs on the side of owning.
    Ok(node)
}

/// Two spellings of one element may become the same key.
fn merge_child(node: &mut Node, key: String, child: Node) {
    match node.get_mut(&key).and_then(Value::as_object_mut) {
        Some(same) => unite_nodes(same, &child),
        None => {
            node.insert(key, Value::Object(child));
        }
    }
}

/// The canonical form of a key; `None` for a sort that is not known.
fn canonical(key: String) -> Result<Option<String>, SetError> {
    let malformed = || SetError::Element(key.clone());
    let (sort, rest) = key.split_once(':').ok_or_else(malformed)?;
    match sort {
        "f" => Ok(Some(key)),
        "k" => match serde_json::from_str(rest) {
            Ok(Value::Object(keys)) if !keys.is_empty() => Ok(Some(format!("k:{}", Value::Object(keys)))),
            _ => Err(malformed()),
        },
        "v" => match serde_json::from_str::<Value>(rest) {
            Ok(value) => Ok(Some(format!("v:{value}"))),
            Err(_) => Err(malformed()),
        },
        "i" => match rest.parse::<i64>() {
            Ok(index) => Ok(Some(format!("i:{index}"))),
            Err(_) => Err(malformed()),
        },
        _ => Ok(None),
    }
}

fn insert(node: &mut Node, path: &[Step<'_>]) {
    let Some((first, rest)) = path.split_first() else { return };
    let key = first.key();
    match node.get_mut(&key).and_then(Value::as_object_mut) {
        None => {
            let mut child = Node::new();
            insert(&mut child, rest);
            node.insert(key, Value::Object(child));
        }
        Some(child) => {
            if child.is_empty() != rest.is_empty() {
                child.insert(SELF.to_owned(), Value::Object(Node::new()));
            }
            insert(child, rest);
        }
    }
}

/// Unites two nodes below the root, where emptiness means membership.
fn unite_nodes(node: &mut Node, other: &Node) {
    let member = is_member(node) || is_member(other);
    node.remove(SELF);
    unite(node, other);
    if member && !node.is_empty() {
        node.insert(SELF.to_owned(), Value::Object(Node::new()));
    }
}

fn unite(node: &mut Node, other: &Node) {
    for (key, theirs) in other {
        let Some(theirs) = theirs.as_object().filter(|_| key != SELF) else { continue };
        match node.get_mut(key).and_then(Value::as_object_mut) {
            Some(ours) => unite_nodes(ours, theirs),
            None => {
                node.insert(key.clone(), Value::Object(theirs.clone()));
            }
        }
    }
}

fn subtract(node: &mut Node, other: &Node) {
    for (key, theirs) in other {
        let Some(theirs) = theirs.as_object().filter(|_| key != SELF) else { continue };
        let Some(ours) = node.get_mut(key).and_then(Value::as_object_mut) else { continue };
        let member = is_member(ours) && !is_member(theirs);
        ours.remove(SELF);
        subtract(ours, theirs);
        match (ours.is_empty(), member) {
            (true, false) => {
                node.remove(key);
            }
            (false, true) => {
                ours.insert(SELF.to_owned(), Value::Object(Node::new()));
            }
            _ => {}
        }
    }
}

fn remove(node: &mut Node, names: &[&str], tree: bool) {
    let Some((first, rest)) = names.split_first() else { return };
    let key = format!("f:{first}");
    let Some(child) = node.get_mut(&key).and_then(Value::as_object_mut) else { return };
    let was_member = is_member(child);
    let member = was_member && !rest.is_empty();
    if rest.is_empty() && tree {
        node.remove(&key);
        return;
    }
    child.remove(SELF);
    remove(child, rest, tree);
    match (child.is_empty(), member) {
        (true, false) => {
            node.remove(&key);
        }
        (false, true) => {
            child.insert(SELF.to_owned(), Value::Object(Node::new()));
        }
        _ => {}
    }
}

fn intersection(a: &Node, b: &Node) -> Node {
    let mut both = Node::new();
    let (few, many) = if a.len() <= b.len() { (a, b) } else { (b, a) };
    for (key, ours) in few {
        let Some(ours) = ours.as_object().filter(|_| key != SELF) else { continue };
        let Some(theirs) = many.get(key).and_then(Value::as_object) else { continue };
        if let Some(shared) = node(intersection(ours, theirs), is_member(ours) && is_member(theirs)) {
            both.insert(key.clone(), shared);
        }
    }
    both
}

fn collect<'a>(node: &'a Node, path: &mut Vec<&'a str>, paths: &mut Vec<Vec<&'a str>>) {
    for (key, child) in node {
        let Some(child) = child.as_object().filter(|_| key != SELF) else { continue };
        path.push(key);
        if is_member(child) {
            paths.push(path.clone());
        }
        collect(child, path, paths);
        path.pop();
    }
}

/// A path as conflicts show it: `.spec.containers[name="c"].image`.
pub fn show(path: &[&str]) -> String {
    let mut text = String::new();
    for key in path {
        match key.split_once(':') {
            Some(("f", name)) => {
                text.push('.');
                text.push_str(name);
            }
            Some(("k", keys)) => {
                let keys: Node = serde_json::from_str(keys).unwrap_or_default();
                let shown: Vec<String> = keys.iter().map(|(name, value)| format!("{name}={value}")).collect();
                text.push_str(&format!("[{}]", shown.join(",")));
            }
            Some(("v", value)) => text.push_str(&format!("[={value}]")),
            _ => text.push_str(&format!("[{}]", key.trim_start_matches("i:"))),
        }
    }
    text
}

#[cfg(test)]
mod tests;
