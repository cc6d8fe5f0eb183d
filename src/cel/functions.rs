//! Calls: the functions that are cheap or dangerous here, all others in the crates' library.
//!
//! A call is paid for before it runs, by the weight of its arguments, and more where its work or its
//! result is more than that: the crates' functions have no bounds of their own.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use kube_cel::KubeCelExt as _;
use kube_cel::cel::common::ast::{CallExpr, Expr, IdedExpr, LiteralValue};
use kube_cel::cel::objects::OptionalValue;
use kube_cel::cel::{Context, Value};

use super::value::{self, none, some, type_name, weight};
use super::{Budget, authorizer, pattern};

/// Prefixes of functions that look like methods of a variable.
const NAMESPACES: &[&str] =
    &["math", "sets", "base64", "optional", "jsonpatch", "format", "lists", "strings", "cel", "ip", "cidr"];

/// Functions that [`call`] answers whatever they are called with.
const OURS: &[&str] = &[
    "size",
    "contains",
    "startsWith",
    "endsWith",
    "matches",
    "find",
    "findAll",
    "dyn",
    "type",
    "bool",
    "lists.range",
    "optional.of",
    "optional.none",
    "optional.ofNonZeroValue",
    "hasValue",
    "value",
    "or",
    "orValue",
];

/// Those of the library. With [`OURS`] they are every function there is, besides operators and macros.
const OTHERS: &[&str] = &[
    "bytes",
    "double",
    "int",
    "uint",
    "string",
    "duration",
    "timestamp",
    "getFullYear",
    "getMonth",
    "getDayOfYear",
    "getDayOfMonth",
    "getDate",
    "getDayOfWeek",
    "getHours",
    "getMinutes",
    "getSeconds",
    "getMilliseconds",
    "indexOf",
    "lastIndexOf",
    "isGreaterThan",
    "isLessThan",
    "compareTo",
    "ip",
    "reverse",
    "min",
    "max",
    "base64.decode",
    "base64.encode",
    "format",
    "isIP",
    "ip.isCanonical",
    "family",
    "isLoopback",
    "isUnspecified",
    "isLinkLocalMulticast",
    "isLinkLocalUnicast",
    "isGlobalUnicast",
    "cidr",
    "isCIDR",
    "containsIP",
    "containsCIDR",
    "prefixLength",
    "masked",
    "jsonpatch.escapeKey",
    "isSorted",
    "sum",
    "slice",
    "sort",
    "flatten",
    "distinct",
    "first",
    "last",
    "math.ceil",
    "math.floor",
    "math.round",
    "math.trunc",
    "math.abs",
    "math.sign",
    "math.isInf",
    "math.isNaN",
    "math.isFinite",
    "math.bitAnd",
    "math.bitOr",
    "math.bitXor",
    "math.bitNot",
    "math.bitShiftLeft",
    "math.bitShiftRight",
    "math.sqrt",
    "math.greatest",
    "math.least",
    "format.dns1123Label",
    "format.dns1123Subdomain",
    "format.dns1035Label",
    "format.dns1035LabelPrefix",
    "format.dns1123LabelPrefix",
    "format.dns1123SubdomainPrefix",
    "format.qualifiedName",
    "format.labelValue",
    "format.uri",
    "format.uuid",
    "format.byte",
    "format.date",
    "format.datetime",
    "format.named",
    "validate",
    "quantity",
    "isQuantity",
    "isInteger",
    "asInteger",
    "asApproximateFloat",
    "sign",
    "add",
    "sub",
    "semver",
    "isSemver",
    "major",
    "minor",
    "patch",
    "sets.contains",
    "sets.equivalent",
    "sets.intersects",
    "charAt",
    "lowerAscii",
    "upperAscii",
    "replace",
    "split",
    "substring",
    "trim",
    "join",
    "strings.quote",
    "url",
    "isURL",
    "getScheme",
    "getHost",
    "getHostname",
    "getPort",
    "getEscapedPath",
    "getQuery",
];

fn is_named(name: &str) -> bool {
    OURS.contains(&name) || OTHERS.contains(&name) || authorizer::FUNCTIONS.contains(&name)
}

pub fn exists(name: &str) -> bool {
    is_named(name) || name.starts_with(['_', '@', '!', '-'])
}

/// `math` of `math.abs(x)`; none for a method of a value.
pub fn prefix(call: &CallExpr) -> Option<&str> {
    match call.target.as_deref().map(|target| &target.expr) {
        Some(Expr::Ident(name)) if NAMESPACES.contains(&name.as_str()) => {
            let qualified = format!("{name}.{}", call.func_name);
            (is_named(&qualified) || name == "cel").then_some(name)
        }
        _ => None,
    }
}

pub fn is_namespaced(call: &CallExpr) -> bool {
    prefix(call).is_some()
}

/// Refuses regular expressions written into the expression that are none.
pub fn check_patterns(root: &IdedExpr) -> Result<(), String> {
    let mut refused = Ok(());
    super::eval::walk(root, &mut |node| {
        if let Expr::Call(call) = &node.expr
            && matches!(call.func_name.as_str(), "matches" | "find" | "findAll")
            && let Some(Expr::Literal(LiteralValue::String(text))) = call.args.last().map(|arg| &arg.expr)
            && let Err(error) = pattern::compile(text.inner())
            && refused.is_ok()
        {
            refused = Err(format!("ERROR: <input>:1:1: invalid matches argument: {error}"));
        }
    });
    refused
}

/// Calls `name` with `args`, the target of a method first.
pub fn call(name: &str, method: bool, args: Vec<Value>, budget: &mut Budget) -> Result<Value, String> {
    use Value::{Bool, List, Map, String as Text};
    if let Some(answer) = authorizer::call(name, &args, budget) {
        return answer;
    }
    match (name, args.as_slice()) {
        ("size", [Text(text)]) => {
            budget.take(text.len() as u64 / 8)?;
            Ok(Value::Int(text.chars().count() as i64))
        }
        ("size", [List(items)]) => Ok(Value::Int(items.len() as i64)),
        ("size", [Map(map)]) => Ok(Value::Int(map.map.len() as i64)),
        ("size", [Value::Bytes(bytes)]) => Ok(Value::Int(bytes.len() as i64)),
        ("contains", [Text(text), Text(part)]) => {
            budget.take((text.len() + part.len()) as u64 / 8)?;
            Ok(Bool(text.contains(part.as_str())))
        }
        ("startsWith", [Text(text), Text(part)]) => Ok(Bool(text.starts_with(part.as_str()))),
        ("endsWith", [Text(text), Text(part)]) => Ok(Bool(text.ends_with(part.as_str()))),
        ("matches", [Text(text), Text(by)]) => Ok(Bool(regex(text, by, budget)?.is_match(text))),
        ("find", [Text(text), Text(by)]) => {
            let found = regex(text, by, budget)?;
            Ok(value::string(found.find(text).map_or("", |found| found.as_str())))
        }
        ("findAll", [Text(text), Text(by), rest @ ..]) => {
            let limit = match rest {
                [] => usize::MAX,
                [Value::Int(limit)] => usize::try_from(*limit).unwrap_or(usize::MAX),
                _ => return Err(no_overload(name, &args)),
            };
            let found = regex(text, by, budget)?;
            Ok(value::list(found.find_iter(text).take(limit).map(|found| value::string(found.as_str())).collect()))
        }
        ("dyn", [_]) => Ok(args.into_iter().next().expect("one argument")),
        ("type", [of]) => Ok(Value::Function(Arc::new(type_name(of).to_owned()), None)),
        ("bool", [Bool(_)]) => Ok(args.into_iter().next().expect("one argument")),
        ("bool", [Text(text)]) => match text.as_str() {
            "true" | "True" | "TRUE" | "t" | "1" => Ok(Bool(true)),
            "false" | "False" | "FALSE" | "f" | "0" => Ok(Bool(false)),
            _ => Err(format!("type conversion error from 'string' to 'bool': {text:?}")),
        },
        ("lists.range", [Value::Int(count)]) => {
            budget.take(u64::try_from(*count).map_err(|_| "lists.range: negative length")?)?;
            Ok(value::list((0..*count).map(Value::Int).collect()))
        }
        ("optional.none", []) => Ok(none()),
        ("optional.of", [_]) => Ok(some(args.into_iter().next().expect("one argument"))),
        ("optional.ofNonZeroValue", [of]) => Ok(if of.is_zero() { none() } else { some(of.clone()) }),
        ("hasValue", [of]) => Ok(Bool(optional(of)?.value().is_some())),
        ("value", [of]) => optional(of)?.value().cloned().ok_or_else(|| "optional.none() dereference".to_owned()),
        ("or", [of, other]) => Ok(if optional(of)?.value().is_some() { of.clone() } else { other.clone() }),
        ("orValue", [of, other]) => Ok(optional(of)?.value().unwrap_or(other).clone()),
        _ if OURS.contains(&name)
            || authorizer::FUNCTIONS.contains(&name)
            || args.iter().any(|arg| matches!(arg, Value::Function(..))) =>
        {
            Err(no_overload(name, &args))
        }
        ("format", [Text(template), ..]) if !modest_precisions(template) => {
            Err(format!("format: a precision is more than {MAX_PRECISION}"))
        }
        _ => {
            budget.take(price(name, &args, budget.left()))?;
            library(name, method, args)
        }
    }
}

/// Digits behind the point that `format` writes at most.
const MAX_PRECISION: usize = 100;

/// Whether no `%.<digits>f` of the template asks for more than can be wanted.
fn modest_precisions(template: &str) -> bool {
    template.split("%.").skip(1).all(|rest| {
        let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
        digits.is_empty() || digits.parse::<usize>().is_ok_and(|digits| digits <= MAX_PRECISION)
    })
}

/// The optional that `value` is.
pub fn optional(value: &Value) -> Result<&OptionalValue, String> {
    <&OptionalValue>::try_from(value).map_err(|_| "no such overload".to_owned())
}

pub fn no_overload(name: &str, args: &[Value]) -> String {
    let types: Vec<&str> = args.iter().map(type_name).collect();
    format!("no such overload: {name}({})", types.join(", "))
}

fn regex(text: &str, by: &str, budget: &mut Budget) -> Result<Arc<regex::Regex>, String> {
    let work = (text.len() as u64 + 1).saturating_mul(by.len() as u64 + 1) / 4;
    budget.take(work.saturating_add(by.len() as u64 * 10))?;
    pattern::compile(by)
}

/// What a call of the library costs, counted up to `limit`.
fn price(name: &str, args: &[Value], limit: u64) -> u64 {
    let weights: Vec<u64> = args.iter().map(|arg| weight(arg, limit)).collect();
    let sum = weights.iter().fold(10u64, |sum, weight| sum.saturating_add(*weight));
    let length = |at: usize| match args.get(at) {
        Some(Value::String(text)) => text.len() as u64,
        Some(Value::List(items)) => items.len() as u64,
        _ => 1,
    };
    let more = match name {
        // Each occurrence grows to the replacement.
        "replace" => length(0).saturating_add(1).saturating_mul(length(2)) / length(1).max(1),
        "join" => length(0).saturating_mul(length(1)),
        // Each element is held against each other.
        "distinct" | "indexOf" | "lastIndexOf" | "sets.contains" | "sets.equivalent" | "sets.intersects" => weights
            .iter()
            .fold(1u64, |product, weight| product.saturating_mul(*weight))
            .saturating_mul(if name == "distinct" { weights[0] } else { 1 }),
        // `%.100f` is six bytes for a hundred.
        "format" => length(0).saturating_mul(20),
        _ => 0,
    };
    sum.saturating_add(more)
}

thread_local! {
    /// The functions of the crates.
    static LIBRARY: Context<'static> = Context::default().with_all();
}

fn library(name: &str, method: bool, args: Vec<Value>) -> Result<Value, String> {
    let ident = |at: usize| IdedExpr { id: 0, expr: Expr::Ident(format!("@{at}")) };
    // `math.abs` is looked up as a method of the name `math`.
    let (target, func_name, first) = match name.split_once('.') {
        Some((prefix, short)) => (Some(IdedExpr { id: 0, expr: Expr::Ident(prefix.to_owned()) }), short, 0),
        None if method => (Some(ident(0)), name, 1),
        None => (None, name, 0),
    };
    let call = CallExpr {
        func_name: func_name.to_owned(),
        target: target.map(Box::new),
        args: (first..args.len()).map(ident).collect(),
    };
    let call = IdedExpr { id: 0, expr: Expr::Call(call) };
    let run = || {
        LIBRARY.with(|library| {
            let mut scope = library.new_inner_scope();
            for (at, arg) in args.into_iter().enumerate() {
                scope.add_variable_from_value(format!("@{at}"), arg);
            }
            scope.resolve(&call)
        })
    };
    match catch_unwind(AssertUnwindSafe(run)) {
        Ok(done) => done.map_err(|error| error.to_string()),
        Err(_) => Err(format!("function {name} cannot take these arguments")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_a_function_of_the_library_or_ours() {
        for name in OURS.iter().chain(OTHERS) {
            for method in [false, true] {
                let error = call(name, method, vec![Value::Null], &mut Budget::default()).err().unwrap_or_default();
                assert!(!error.contains("Undeclared"), "{name}: {error}");
            }
        }
    }
}
