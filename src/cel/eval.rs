//! The walk over the syntax tree.

use std::cmp::Ordering;
use std::sync::Arc;

use kube_cel::cel::Value;
use kube_cel::cel::common::ast::{
    CallExpr, ComprehensionExpr, EntryExpr, Expr, IdedExpr, LiteralValue, operators as op,
};
use kube_cel::cel::objects::{Key, KeyRef, Map, OptionalValue};

use super::functions::{self, no_overload, optional};
use super::value::{self, none, some, weight};
use super::{Budget, Outcome, Scope, authorizer};

/// Stack is added when less than this is left, so many bytes at a time.
pub const RED_ZONE: usize = 128 << 10;
pub const STACK_STEP: usize = 1 << 20;

/// What `type(x)` may be compared with.
const TYPES: &[&str] = &["bool", "bytes", "double", "int", "list", "map", "null_type", "string", "type", "uint"];

pub fn run(root: &IdedExpr, scope: &Scope, budget: &mut Budget) -> Outcome {
    Walk { scope, budget, locals: Vec::new() }.eval(root)
}

pub fn is_type(name: &str) -> bool {
    TYPES.contains(&name) || name == "optional_type"
}

/// Whether `node` is the name of a message type.
pub fn qualified_type(node: &IdedExpr) -> bool {
    dotted(node).is_some_and(|name| matches!(name.as_str(), "google.protobuf.Timestamp" | "google.protobuf.Duration"))
}

fn dotted(node: &IdedExpr) -> Option<String> {
    match &node.expr {
        Expr::Ident(name) => Some(name.clone()),
        Expr::Select(select) if !select.test => Some(format!("{}.{}", dotted(&select.operand)?, select.field)),
        _ => None,
    }
}

/// The names that a call binds, where it is one of the macros that the parser leaves to us: those with
/// two variables, `cel.bind`, and those of optionals.
pub fn macro_bindings(call: &CallExpr) -> Option<Vec<&str>> {
    let names = match (call.func_name.as_str(), call.args.len()) {
        ("all" | "exists" | "existsOne" | "exists_one", 3) => 2,
        ("transformList" | "transformMap" | "transformMapEntry", 3 | 4) => 2,
        ("sortBy", 2) | ("optMap" | "optFlatMap", 2) => 1,
        ("bind", 3) if functions::prefix(call) == Some("cel") => 1,
        _ => return None,
    };
    call.target.as_ref()?;
    let bound = call.args[..names].iter();
    bound.map(|arg| if let Expr::Ident(name) = &arg.expr { Some(name.as_str()) } else { None }).collect()
}

/// Shows `visit` every node.
pub fn walk<'a>(node: &'a IdedExpr, visit: &mut impl FnMut(&'a IdedExpr)) {
    visit(node);
    match &node.expr {
        Expr::Unspecified | Expr::Literal(_) | Expr::Ident(_) => {}
        Expr::Select(select) => walk(&select.operand, visit),
        Expr::List(list) => list.elements.iter().for_each(|element| walk(element, visit)),
        Expr::Map(map) => map.entries.iter().for_each(|entry| match &entry.expr {
            EntryExpr::MapEntry(entry) => {
                walk(&entry.key, visit);
                walk(&entry.value, visit);
            }
            EntryExpr::StructField(field) => walk(&field.value, visit),
        }),
        Expr::Struct(structure) => structure.entries.iter().for_each(|entry| match &entry.expr {
            EntryExpr::StructField(field) => walk(&field.value, visit),
            EntryExpr::MapEntry(entry) => walk(&entry.value, visit),
        }),
        Expr::Call(call) => call.target.as_deref().into_iter().chain(&call.args).for_each(|arg| walk(arg, visit)),
        Expr::Comprehension(fold) => {
            for part in [&fold.iter_range, &fold.accu_init, &fold.loop_cond, &fold.loop_step, &fold.result] {
                walk(part, visit);
            }
        }
    }
}

struct Walk<'a> {
    scope: &'a Scope,
    budget: &'a mut Budget,
    /// Variables that macros bind, the innermost last.
    locals: Vec<(&'a str, Value)>,
}

impl<'a> Walk<'a> {
    fn eval(&mut self, node: &'a IdedExpr) -> Outcome {
        self.budget.take(1)?;
        match &node.expr {
            Expr::Literal(literal) => Ok(constant(literal)),
            Expr::Ident(name) => self.variable(name),
            _ => stacker::maybe_grow(RED_ZONE, STACK_STEP, || self.inner(node)),
        }
    }

    fn inner(&mut self, node: &'a IdedExpr) -> Outcome {
        match &node.expr {
            Expr::Select(_) if qualified_type(node) => {
                Ok(Value::Function(Arc::new(dotted(node).unwrap_or_default()), None))
            }
            Expr::Select(select) => {
                let operand = self.eval(&select.operand)?;
                field(&operand, &select.field, select.test)
            }
            Expr::List(list) => {
                let mut items = Vec::with_capacity(list.elements.len());
                for (at, element) in list.elements.iter().enumerate() {
                    let item = self.eval(element)?;
                    match list.optional_indices.contains(&at) {
                        true => items.extend(optional(&item)?.value().cloned()),
                        false => items.push(item),
                    }
                }
                Ok(value::list(items))
            }
            Expr::Map(map) => {
                let mut entries = std::collections::HashMap::new();
                for entry in &map.entries {
                    let EntryExpr::MapEntry(entry) = &entry.expr else { return Err("no such overload".into()) };
                    let key = key(self.eval(&entry.key)?)?;
                    let item = self.eval(&entry.value)?;
                    let item = if entry.optional { optional(&item)?.value().cloned() } else { Some(item) };
                    if let Some(item) = item
                        && entries.insert(key, item).is_some()
                    {
                        return Err("Failed with repeated key".to_owned());
                    }
                }
                Ok(Value::Map(Map { map: Arc::new(entries) }))
            }
            // A message, as policies that change objects write them: a map of what it sets.
            Expr::Struct(structure) => {
                let mut entries = Vec::new();
                for entry in &structure.entries {
                    let EntryExpr::StructField(part) = &entry.expr else { return Err("no such overload".into()) };
                    let item = self.eval(&part.value)?;
                    let item = if part.optional { optional(&item)?.value().cloned() } else { Some(item) };
                    entries.extend(item.map(|item| (part.field.as_str(), item)));
                }
                Ok(value::map(entries.into_iter()))
            }
            Expr::Call(call) => self.call(call),
            Expr::Comprehension(fold) => self.fold(fold),
            Expr::Literal(_) | Expr::Ident(_) | Expr::Unspecified => Err("no such overload".to_owned()),
        }
    }

    fn variable(&self, name: &str) -> Outcome {
        let local = self.locals.iter().rev().find(|(known, _)| *known == name).map(|(_, value)| value);
        match local.or_else(|| self.scope.get(name)) {
            Some(value) => Ok(value.clone()),
            None if is_type(name) => Ok(Value::Function(Arc::new(name.to_owned()), None)),
            None => Err(format!("undeclared reference to '{name}' (in container '')")),
        }
    }

    fn truth(&mut self, node: &'a IdedExpr) -> Result<bool, String> {
        match self.eval(node)? {
            Value::Bool(truth) => Ok(truth),
            _ => Err("no such overload".to_owned()),
        }
    }

    /// `&&` and `||`: the side that decides wins over an error of the other.
    fn logic(&mut self, args: &'a [IdedExpr], decides: bool) -> Outcome {
        let left = self.truth(&args[0]);
        if left == Ok(decides) {
            return Ok(Value::Bool(decides));
        }
        let right = self.truth(&args[1]);
        if right == Ok(decides) {
            return Ok(Value::Bool(decides));
        }
        left?;
        right.map(Value::Bool)
    }

    fn call(&mut self, call: &'a CallExpr) -> Outcome {
        let args = call.args.as_slice();
        match (call.func_name.as_str(), args) {
            (op::CONDITIONAL, [condition, yes, no]) => match self.truth(condition)? {
                true => self.eval(yes),
                false => self.eval(no),
            },
            (op::LOGICAL_AND, [_, _]) => self.logic(args, false),
            (op::LOGICAL_OR, [_, _]) => self.logic(args, true),
            (op::LOGICAL_NOT, [arg]) => Ok(Value::Bool(!self.truth(arg)?)),
            (op::NOT_STRICTLY_FALSE, [arg]) => Ok(Value::Bool(self.truth(arg).unwrap_or(true))),
            (op::NEGATE, [arg]) => match self.eval(arg)? {
                Value::Int(int) => int.checked_neg().map(Value::Int).ok_or_else(|| "integer overflow".to_owned()),
                Value::Float(float) => Ok(Value::Float(-float)),
                other => Err(no_overload("-_", &[other])),
            },
            (name, [left, right]) if call.target.is_none() && name.starts_with(['_', '@']) => {
                let (left, right) = (self.eval(left)?, self.eval(right)?);
                self.binary(name, left, right)
            }
            _ => match macro_bindings(call) {
                Some(names) => self.expand(call, &names),
                None => self.function(call),
            },
        }
    }

    fn function(&mut self, call: &'a CallExpr) -> Outcome {
        let mut args = Vec::with_capacity(call.args.len() + 1);
        let prefix = functions::prefix(call).filter(|prefix| self.variable(prefix).is_err());
        let qualified = prefix.map(|prefix| format!("{prefix}.{}", call.func_name));
        let method = call.target.is_some() && qualified.is_none();
        if let Some(target) = call.target.as_deref().filter(|_| method) {
            args.push(self.eval(target)?);
        }
        for arg in &call.args {
            args.push(self.eval(arg)?);
        }
        functions::call(qualified.as_deref().unwrap_or(&call.func_name), method, args, self.budget)
    }

    fn binary(&mut self, name: &str, left: Value, right: Value) -> Outcome {
        let compared = |order: fn(Ordering) -> bool| match left.partial_cmp(&right) {
            Some(ordering) => Ok(Value::Bool(order(ordering))),
            // Not a number, which is neither less nor more.
            None if matches!((&left, &right), (Value::Float(_), _) | (_, Value::Float(_))) => Ok(Value::Bool(false)),
            None => Err("no such overload".to_owned()),
        };
        match name {
            op::EQUALS | op::NOT_EQUALS => {
                let limit = self.budget.left();
                self.budget.take(weight(&left, limit).min(weight(&right, limit)))?;
                Ok(Value::Bool((left == right) == (name == op::EQUALS)))
            }
            op::LESS => compared(Ordering::is_lt),
            op::LESS_EQUALS => compared(Ordering::is_le),
            op::GREATER => compared(Ordering::is_gt),
            op::GREATER_EQUALS => compared(Ordering::is_ge),
            op::IN => self.contains(&left, &right),
            op::INDEX => match optional(&left) {
                Ok(of) => optional_index(of, &right),
                Err(_) => index(&left, &right),
            },
            op::OPT_INDEX => Ok(index(&left, &right).map_or_else(|_| none(), some)),
            op::OPT_SELECT => {
                let Value::String(name) = &right else { return Err("no such overload".to_owned()) };
                match optional(&left) {
                    Ok(of) => optional_field(of, name),
                    Err(_) => Ok(field(&left, name, false).map_or_else(|_| none(), some)),
                }
            }
            op::ADD => {
                // What is joined is copied, but for the list that a macro builds up.
                let copied = |value: &Value| match value {
                    Value::String(text) => text.len() as u64,
                    Value::List(items) => items.len() as u64,
                    _ => 0,
                };
                self.budget.take(copied(&left).saturating_add(copied(&right)))?;
                (left + right).map_err(|error| complaint(&error))
            }
            op::SUBSTRACT => (left - right).map_err(|error| complaint(&error)),
            op::MULTIPLY => (left * right).map_err(|error| complaint(&error)),
            op::DIVIDE => (left / right).map_err(|error| complaint(&error)),
            op::MODULO => (left % right).map_err(|error| complaint(&error)),
            _ => Err(no_overload(name, &[left, right])),
        }
    }

    fn contains(&mut self, item: &Value, container: &Value) -> Outcome {
        match container {
            Value::List(items) => {
                for other in items.iter() {
                    let limit = self.budget.left();
                    self.budget.take(weight(item, limit).min(weight(other, limit)))?;
                    if item == other {
                        return Ok(Value::Bool(true));
                    }
                }
                Ok(Value::Bool(false))
            }
            Value::Map(map) => {
                let key = KeyRef::try_from(item).map_err(|_| "no such overload".to_owned())?;
                Ok(Value::Bool(map.get(&key).is_some()))
            }
            _ => Err("no such overload".to_owned()),
        }
    }

    /// What a macro goes through: the elements of a list, the keys of a map.
    fn range(&mut self, of: &Value) -> Result<Vec<(Value, Value)>, String> {
        match of {
            Value::List(items) => {
                self.budget.take(items.len() as u64)?;
                Ok(items.iter().enumerate().map(|(at, item)| (Value::Int(at as i64), item.clone())).collect())
            }
            Value::Map(map) => {
                self.budget.take(map.map.len() as u64)?;
                Ok(value::sorted(map).into_iter().map(|(key, item)| (key.into(), item.clone())).collect())
            }
            _ => Err("no such overload".to_owned()),
        }
    }

    fn fold(&mut self, fold: &'a ComprehensionExpr) -> Outcome {
        let over = self.eval(&fold.iter_range)?;
        let keys = matches!(over, Value::Map(_));
        let range = self.range(&over)?;
        let accumulator = self.eval(&fold.accu_init)?;
        let before = self.locals.len();
        self.locals.push((&fold.accu_var, accumulator));
        let done = self.turns(fold, range, keys, before);
        let done = done.and_then(|()| self.eval(&fold.result));
        self.locals.truncate(before);
        done
    }

    fn turns(
        &mut self,
        fold: &'a ComprehensionExpr,
        range: Vec<(Value, Value)>,
        keys: bool,
        accumulator: usize,
    ) -> Result<(), String> {
        for (key, item) in range {
            if !self.truth(&fold.loop_cond)? {
                break;
            }
            self.locals.push((&fold.iter_var, if keys { key } else { item }));
            let next = self.step(fold, accumulator);
            self.locals.truncate(accumulator + 1);
            self.locals[accumulator].1 = next?;
        }
        Ok(())
    }

    /// The next value of the accumulator. `acc + [x]`, which is what `map` and `filter` come to, appends
    /// in place: copying the list at each turn would take the square of its length.
    fn step(&mut self, fold: &'a ComprehensionExpr, accumulator: usize) -> Outcome {
        let mut step = &fold.loop_step;
        if let Expr::Call(call) = &step.expr
            && let (op::CONDITIONAL, [condition, yes, no]) = (call.func_name.as_str(), call.args.as_slice())
            && matches!(&no.expr, Expr::Ident(name) if *name == fold.accu_var)
        {
            if !self.truth(condition)? {
                return Ok(std::mem::replace(&mut self.locals[accumulator].1, Value::Null));
            }
            step = yes;
        }
        if let Expr::Call(call) = &step.expr
            && let (op::ADD, [left, right]) = (call.func_name.as_str(), call.args.as_slice())
            && matches!(&left.expr, Expr::Ident(name) if *name == fold.accu_var)
            && matches!(&right.expr, Expr::List(_))
        {
            let more = self.eval(right)?;
            let so_far = std::mem::replace(&mut self.locals[accumulator].1, Value::Null);
            return (so_far + more).map_err(|error| complaint(&error));
        }
        self.eval(step)
    }

    /// The macros that the parser leaves as calls.
    fn expand(&mut self, call: &'a CallExpr, names: &[&'a str]) -> Outcome {
        let before = self.locals.len();
        let done = self.expanded(call, names);
        self.locals.truncate(before);
        done
    }

    fn expanded(&mut self, call: &'a CallExpr, names: &[&'a str]) -> Outcome {
        let args = &call.args;
        if call.func_name == "bind" {
            let bound = self.eval(&args[1])?;
            self.locals.push((names[0], bound));
            return self.eval(&args[2]);
        }
        let target = call.target.as_deref().ok_or("no such overload")?;
        let over = self.eval(target)?;
        if let "optMap" | "optFlatMap" = call.func_name.as_str() {
            let Some(inner) = optional(&over)?.value().cloned() else { return Ok(none()) };
            self.locals.push((names[0], inner));
            let mapped = self.eval(&args[1])?;
            return Ok(if call.func_name == "optMap" { some(mapped) } else { mapped });
        }
        let range = self.range(&over)?;
        let Some(body) = args.last() else { return Err("no such overload".to_owned()) };
        if call.func_name == "sortBy" {
            return self.sort_by(range, names[0], body);
        }
        let before = self.locals.len();
        let (mut truths, mut count, mut failed) = (true, 0usize, None);
        let (mut items, mut entries) = (Vec::new(), std::collections::HashMap::new());
        for (key, item) in range {
            self.locals.truncate(before);
            self.locals.push((names[0], key.clone()));
            self.locals.push((names[1], item));
            if args.len() == 4 && !self.truth(&args[2])? {
                continue;
            }
            match call.func_name.as_str() {
                "transformList" => items.push(self.eval(body)?),
                "transformMap" => drop(entries.insert(self::key(key)?, self.eval(body)?)),
                "transformMapEntry" => match self.eval(body)? {
                    Value::Map(map) => entries.extend(map.map.iter().map(|(key, item)| (key.clone(), item.clone()))),
                    _ => return Err("no such overload".to_owned()),
                },
                _ => match self.truth(body) {
                    Ok(true) => count += 1,
                    Ok(false) => truths = false,
                    Err(error) => failed = Some(error),
                },
            }
        }
        match (call.func_name.as_str(), failed) {
            ("transformList", _) => Ok(value::list(items)),
            ("transformMap" | "transformMapEntry", _) => Ok(Value::Map(Map { map: Arc::new(entries) })),
            ("all", _) if !truths => Ok(Value::Bool(false)),
            ("exists", _) if count > 0 => Ok(Value::Bool(true)),
            (_, Some(error)) => Err(error),
            ("all", None) => Ok(Value::Bool(true)),
            ("exists", None) => Ok(Value::Bool(false)),
            (_, None) => Ok(Value::Bool(count == 1)),
        }
    }

    fn sort_by(&mut self, range: Vec<(Value, Value)>, name: &'a str, body: &'a IdedExpr) -> Outcome {
        let mut keyed = Vec::with_capacity(range.len());
        for (_, item) in range {
            self.locals.push((name, item.clone()));
            let key = self.eval(body);
            self.locals.pop();
            keyed.push((key?, item));
        }
        keyed.sort_by(|(left, _), (right, _)| left.partial_cmp(right).unwrap_or(Ordering::Equal));
        Ok(value::list(keyed.into_iter().map(|(_, item)| item).collect()))
    }
}

fn constant(literal: &LiteralValue) -> Value {
    match literal {
        LiteralValue::Boolean(value) => Value::Bool(*value.inner()),
        LiteralValue::Bytes(value) => Value::Bytes(Arc::new(value.inner().to_vec())),
        LiteralValue::Double(value) => Value::Float(*value.inner()),
        LiteralValue::Int(value) => Value::Int(*value.inner()),
        LiteralValue::Null => Value::Null,
        LiteralValue::String(value) => value::string(value.inner()),
        LiteralValue::UInt(value) => Value::UInt(*value.inner()),
    }
}

fn key(value: Value) -> Result<Key, String> {
    value.try_into().map_err(|other| format!("unsupported key type: {}", value::type_name(&other)))
}

/// `of.name`, or whether there is such a field.
fn field(of: &Value, name: &str, test: bool) -> Outcome {
    if let Some(found) = authorizer::field(of, name).filter(|_| !test) {
        return Ok(found);
    }
    if let Ok(of) = optional(of) {
        return if test {
            Ok(Value::Bool(of.value().is_some_and(|of| has(of, name))))
        } else {
            optional_field(of, name)
        };
    }
    let Value::Map(map) = of else { return Err("no such overload".to_owned()) };
    if test {
        return Ok(Value::Bool(has(of, name)));
    }
    map.get(&KeyRef::String(name)).cloned().ok_or_else(|| format!("no such key: {name}"))
}

fn has(of: &Value, name: &str) -> bool {
    matches!(of, Value::Map(map) if map.get(&KeyRef::String(name)).is_some())
}

fn optional_field(of: &OptionalValue, name: &str) -> Outcome {
    Ok(of.value().and_then(|of| field(of, name, false).ok()).map_or_else(none, some))
}

fn optional_index(of: &OptionalValue, at: &Value) -> Outcome {
    Ok(of.value().and_then(|of| index(of, at).ok()).map_or_else(none, some))
}

fn index(of: &Value, at: &Value) -> Outcome {
    match (of, at) {
        (Value::List(items), Value::Int(at)) => {
            let found = usize::try_from(*at).ok().and_then(|at| items.get(at));
            found.cloned().ok_or_else(|| format!("index out of bounds: {at}"))
        }
        (Value::List(items), Value::UInt(at)) => {
            let found = usize::try_from(*at).ok().and_then(|at| items.get(at));
            found.cloned().ok_or_else(|| format!("index out of bounds: {at}"))
        }
        (Value::Map(map), at) => {
            let key = KeyRef::try_from(at).map_err(|_| "no such overload".to_owned())?;
            map.get(&key).cloned().ok_or_else(|| match at {
                Value::String(name) => format!("no such key: {name}"),
                other => format!("no such key: {other:?}"),
            })
        }
        _ => Err("no such overload".to_owned()),
    }
}

/// The library's error in upstream's words.
fn complaint(error: &kube_cel::cel::ExecutionError) -> String {
    use kube_cel::cel::ExecutionError as Error;
    match error {
        Error::Overflow(..) => "integer overflow".to_owned(),
        Error::DivisionByZero(_) => "division by zero".to_owned(),
        Error::RemainderByZero(_) => "modulus by zero".to_owned(),
        Error::UnsupportedBinaryOperator(..) => "no such overload".to_owned(),
        other => other.to_string(),
    }
}
