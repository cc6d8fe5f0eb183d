//! Types of expressions, found out before there are values: so that a rule that can never be evaluated is
//! refused when it is written.
//!
//! What is not known is `dyn`, and takes part in everything: a wrong rule may pass, and then fails when it is
//! evaluated; a right one is never refused. Operators, fields, indices, ranges of macros and the functions of
//! texts are checked; the results of most functions are `dyn`. The words are those of cel-go's checker.

use std::fmt;

use kube_cel::cel::common::ast::{
    CallExpr, ComprehensionExpr, EntryExpr, Expr, IdedExpr, LiteralValue, operators as op,
};

use super::{eval, functions};

/// The type of a value.
#[derive(Clone)]
pub enum Type<'t> {
    /// Not known before there is a value.
    Dyn,
    Null,
    Bool,
    Int,
    Uint,
    Double,
    String,
    Bytes,
    Timestamp,
    Duration,
    List(Box<Type<'t>>),
    Map(Box<Type<'t>>, Box<Type<'t>>),
    /// Something with these fields, and no others.
    Object(&'t dyn Fields),
}

/// The fields of an object.
pub trait Fields {
    /// By the name that an expression has for it.
    fn field(&self, name: &str) -> Option<Type<'_>>;
}

impl fmt::Display for Type<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Dyn => "dyn",
            Self::Null => "null",
            Self::Bool => "bool",
            Self::Int => "int",
            Self::Uint => "uint",
            Self::Double => "double",
            Self::String => "string",
            Self::Bytes => "bytes",
            Self::Timestamp => "timestamp",
            Self::Duration => "duration",
            Self::Object(_) => "object",
            Self::List(of) => return write!(f, "list({of})"),
            Self::Map(key, value) => return write!(f, "map({key}, {value})"),
        })
    }
}

impl Type<'_> {
    fn is_number(&self) -> bool {
        matches!(self, Self::Int | Self::Uint | Self::Double)
    }

    /// Whether a value may be of both.
    fn fits(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Dyn, _) | (_, Self::Dyn) => true,
            (Self::List(a), Self::List(b)) => a.fits(b),
            (Self::Map(key, value), Self::Map(other_key, other_value)) => {
                key.fits(other_key) && value.fits(other_value)
            }
            // Whose fields they are nobody can say before there are values.
            (Self::Object(_) | Self::Map(..), Self::Object(_)) | (Self::Object(_), Self::Map(..)) => true,
            _ => std::mem::discriminant(self) == std::mem::discriminant(other),
        }
    }
}

/// The type of `root`, given those of the variables; or upstream's complaint.
pub fn check<'t>(root: &IdedExpr, variables: &[(&str, Type<'t>)]) -> Result<Type<'t>, String> {
    let locals = variables.iter().map(|(name, of)| ((*name).to_owned(), of.clone())).collect();
    Checker { locals }.infer(root)
}

struct Checker<'t> {
    /// The innermost last.
    locals: Vec<(String, Type<'t>)>,
}

type Found<'t> = Result<Type<'t>, String>;

fn no_overload<T>(name: &str, args: &[Type<'_>]) -> Result<T, String> {
    let args: Vec<String> = args.iter().map(ToString::to_string).collect();
    Err(format!("found no matching overload for '{name}' applied to '({})'", args.join(", ")))
}

impl<'t> Checker<'t> {
    fn infer(&mut self, node: &IdedExpr) -> Found<'t> {
        // As deep as the expression is nested, which is bounded when it is parsed.
        stacker::maybe_grow(eval::RED_ZONE, eval::STACK_STEP, || self.inner(node))
    }

    fn inner(&mut self, node: &IdedExpr) -> Found<'t> {
        match &node.expr {
            Expr::Unspecified | Expr::Struct(_) => Ok(Type::Dyn),
            Expr::Literal(literal) => Ok(match literal {
                LiteralValue::Boolean(_) => Type::Bool,
                LiteralValue::Bytes(_) => Type::Bytes,
                LiteralValue::Double(_) => Type::Double,
                LiteralValue::Int(_) => Type::Int,
                LiteralValue::Null => Type::Null,
                LiteralValue::String(_) => Type::String,
                LiteralValue::UInt(_) => Type::Uint,
            }),
            Expr::Ident(name) => {
                let known = self.locals.iter().rev().find(|(known, _)| known == name);
                Ok(known.map_or(Type::Dyn, |(_, of)| of.clone()))
            }
            Expr::Select(_) if eval::qualified_type(node) => Ok(Type::Dyn),
            Expr::Select(select) => {
                let of = self.infer(&select.operand)?;
                let found = field(&of, &select.field)?;
                Ok(if select.test { Type::Bool } else { found })
            }
            Expr::List(list) => {
                let elements =
                    list.elements.iter().map(|element| self.infer(element)).collect::<Result<Vec<_>, _>>()?;
                let known = if list.optional_indices.is_empty() { common(&elements) } else { Type::Dyn };
                Ok(Type::List(Box::new(known)))
            }
            Expr::Map(map) => {
                let (mut keys, mut values) = (Vec::new(), Vec::new());
                for entry in &map.entries {
                    if let EntryExpr::MapEntry(entry) = &entry.expr {
                        keys.push(self.infer(&entry.key)?);
                        values.push(if entry.optional { Type::Dyn } else { self.infer(&entry.value)? });
                    }
                }
                Ok(Type::Map(Box::new(common(&keys)), Box::new(common(&values))))
            }
            Expr::Call(call) => self.call(call),
            Expr::Comprehension(fold) => self.fold(fold),
        }
    }

    fn call(&mut self, call: &CallExpr) -> Found<'t> {
        // What these bind has types of their own; nothing inside is looked at.
        if eval::macro_bindings(call).is_some() {
            return Ok(Type::Dyn);
        }
        let name = call.func_name.as_str();
        let target = match call.target.as_deref().filter(|_| !functions::is_namespaced(call)) {
            Some(target) => Some(self.infer(target)?),
            None => None,
        };
        let args = call.args.iter().map(|arg| self.infer(arg)).collect::<Result<Vec<_>, _>>()?;
        match (name, &target, args.as_slice()) {
            (op::CONDITIONAL, None, [condition, yes, no]) => match condition.fits(&Type::Bool) {
                true if yes.fits(no) => Ok(common(&args[1..])),
                _ => no_overload(name, &args),
            },
            (op::LOGICAL_AND | op::LOGICAL_OR, None, sides) => match sides.iter().all(|side| side.fits(&Type::Bool)) {
                true => Ok(Type::Bool),
                false => no_overload(name, sides),
            },
            (op::LOGICAL_NOT, None, [of]) if !of.fits(&Type::Bool) => no_overload(name, &args),
            (op::LOGICAL_NOT | op::NOT_STRICTLY_FALSE, None, [_]) => Ok(Type::Bool),
            (op::NEGATE, None, [of]) => match of {
                Type::Int | Type::Double | Type::Dyn => Ok(of.clone()),
                _ => no_overload(name, &args),
            },
            (_, None, [left, right]) if name.starts_with(['_', '@']) => binary(name, left, right),
            ("size", _, _) => match target.as_ref().into_iter().chain(&args).collect::<Vec<_>>().as_slice() {
                [Type::String | Type::Bytes | Type::List(_) | Type::Map(..) | Type::Dyn] => Ok(Type::Int),
                [Type::Object(_)] => Ok(Type::Int),
                _ => method(name, target.as_ref(), &args),
            },
            ("startsWith" | "endsWith" | "contains" | "matches", Some(text), [part]) => {
                match text.fits(&Type::String) && part.fits(&Type::String) {
                    true => Ok(Type::Bool),
                    false => method(name, target.as_ref(), &args),
                }
            }
            ("int", None, [_]) => Ok(Type::Int),
            ("uint", None, [_]) => Ok(Type::Uint),
            ("double", None, [_]) => Ok(Type::Double),
            ("string", None, [_]) => Ok(Type::String),
            ("bool", None, [_]) => Ok(Type::Bool),
            ("timestamp", None, [_]) => Ok(Type::Timestamp),
            ("duration", None, [_]) => Ok(Type::Duration),
            _ => Ok(Type::Dyn),
        }
    }

    fn fold(&mut self, fold: &ComprehensionExpr) -> Found<'t> {
        let over = match self.infer(&fold.iter_range)? {
            Type::List(of) => *of,
            Type::Map(key, _) => *key,
            Type::Dyn => Type::Dyn,
            other => {
                let why = "cannot be range of a comprehension (must be list, map, or dynamic)";
                return Err(format!("expression of type '{other}' {why}"));
            }
        };
        let before = self.locals.len();
        let start = match self.infer(&fold.accu_init)? {
            // A list that grows: of what, the step says.
            Type::List(_) => Type::Dyn,
            start => start,
        };
        self.locals.push((fold.accu_var.clone(), start));
        self.locals.push((fold.iter_var.clone(), over));
        let done = self.infer(&fold.loop_cond).and_then(|_| self.infer(&fold.loop_step));
        self.locals.truncate(before + 1);
        let done = done.and_then(|_| self.infer(&fold.result));
        self.locals.truncate(before);
        done
    }
}

fn method<T>(name: &str, target: Option<&Type<'_>>, args: &[Type<'_>]) -> Result<T, String> {
    let Some(target) = target else { return no_overload(name, args) };
    let args: Vec<String> = args.iter().map(ToString::to_string).collect();
    Err(format!("found no matching overload for '{name}' applied to '{target}.({})'", args.join(", ")))
}

/// The type of all of them, where they have one.
fn common<'t>(types: &[Type<'t>]) -> Type<'t> {
    let Some((first, rest)) = types.split_first() else { return Type::Dyn };
    let alike = |other: &Type<'t>| !matches!(other, Type::Dyn | Type::Object(_)) && other.fits(first);
    if matches!(first, Type::Object(_)) && rest.is_empty() || alike(first) && rest.iter().all(alike) {
        first.clone()
    } else {
        Type::Dyn
    }
}

fn field<'t>(of: &Type<'t>, name: &str) -> Found<'t> {
    match of {
        Type::Object(fields) => fields.field(name).ok_or_else(|| format!("undefined field '{name}'")),
        Type::Map(_, value) => Ok((**value).clone()),
        Type::Dyn => Ok(Type::Dyn),
        other => Err(format!("type '{other}' does not support field selection")),
    }
}

fn binary<'t>(name: &str, left: &Type<'t>, right: &Type<'t>) -> Found<'t> {
    let refuse = || no_overload(name, &[left.clone(), right.clone()]);
    let either = |known: &Type<'t>| if matches!(known, Type::Dyn) { right.clone() } else { known.clone() };
    match (name, left, right) {
        // What may be null is not known here.
        (op::EQUALS | op::NOT_EQUALS, ..)
            if left.fits(right) || matches!(left, Type::Null) || matches!(right, Type::Null) =>
        {
            Ok(Type::Bool)
        }
        (op::LESS | op::LESS_EQUALS | op::GREATER | op::GREATER_EQUALS, ..) => {
            let ordered = |of: &Type<'_>| !matches!(of, Type::Null | Type::List(_) | Type::Map(..) | Type::Object(_));
            let numbers = left.is_number() && right.is_number();
            if ordered(left) && ordered(right) && (numbers || left.fits(right)) { Ok(Type::Bool) } else { refuse() }
        }
        (op::IN, item, Type::List(of)) if item.fits(of) => Ok(Type::Bool),
        (op::IN, item, Type::Map(key, _)) if item.fits(key) => Ok(Type::Bool),
        (op::IN, _, Type::Dyn | Type::Object(_)) => Ok(Type::Bool),
        (op::INDEX, Type::List(of), at) if at.is_number() || matches!(at, Type::Dyn) => Ok((**of).clone()),
        (op::INDEX, Type::Map(key, value), at) if at.fits(key) => Ok((**value).clone()),
        (op::INDEX, Type::Dyn | Type::Object(_), _) | (op::OPT_INDEX | op::OPT_SELECT, ..) => Ok(Type::Dyn),
        (op::ADD, Type::Timestamp, Type::Duration) | (op::ADD, Type::Duration, Type::Timestamp) => Ok(Type::Timestamp),
        (op::ADD, Type::String | Type::Bytes | Type::Duration, _) if left.fits(right) => Ok(either(left)),
        (op::ADD, Type::List(_), Type::List(_)) if left.fits(right) => Ok(common(&[left.clone(), right.clone()])),
        (op::ADD, Type::List(_), Type::Dyn) => Ok(Type::Dyn),
        (op::SUBSTRACT, Type::Timestamp, Type::Timestamp) => Ok(Type::Duration),
        (op::SUBSTRACT, Type::Timestamp | Type::Duration, Type::Duration) => Ok(left.clone()),
        (op::ADD | op::SUBSTRACT | op::MULTIPLY | op::DIVIDE, ..) if left.is_number() && left.fits(right) => {
            Ok(either(left))
        }
        (op::MODULO, Type::Int | Type::Uint, _) if left.fits(right) => Ok(either(left)),
        (op::ADD | op::SUBSTRACT, Type::Timestamp | Type::Duration, Type::Dyn) => Ok(Type::Dyn),
        (op::ADD | op::SUBSTRACT | op::MULTIPLY | op::DIVIDE | op::MODULO, Type::Dyn, _) => Ok(Type::Dyn),
        (op::EQUALS | op::NOT_EQUALS | op::IN | op::INDEX, ..) => refuse(),
        (op::ADD | op::SUBSTRACT | op::MULTIPLY | op::DIVIDE | op::MODULO, ..) => refuse(),
        _ => Ok(Type::Dyn),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cel::Program;

    struct Boat;

    impl Fields for Boat {
        fn field(&self, name: &str) -> Option<Type<'_>> {
            Some(match name {
                "name" => Type::String,
                "length" => Type::Int,
                "weight" => Type::Double,
                "built" => Type::Timestamp,
                "crew" => Type::List(Box::new(Type::String)),
                "decks" => Type::List(Box::new(Type::Object(&Boat))),
                "labels" => Type::Map(Box::new(Type::String), Box::new(Type::String)),
                "any" => Type::Dyn,
                _ => return None,
            })
        }
    }

    fn found(expression: &str) -> String {
        let program = Program::compile(expression).expect(expression);
        program.check(&[("self", Type::Object(&Boat))]).map_or_else(|why| why, |of| of.to_string())
    }

    #[test]
    fn types_follow_from_operators_fields_and_macros() {
        for (expression, wanted) in [
            ("self.length + 1", "int"),
            ("self.length < self.weight", "bool"),
            ("self.name + 'x' == self.crew[0]", "bool"),
            ("self.crew.all(c, c.startsWith('a'))", "bool"),
            ("self.crew.exists(c, c == 'a') && self.decks.exists_one(d, d.length > 3)", "bool"),
            ("self.labels.all(k, self.labels[k].size() < 3)", "bool"),
            ("has(self.name) ? self.length : 2", "int"),
            ("self.crew + ['x']", "list(string)"),
            ("self.crew.map(c, c + 'x').size() == 2", "bool"),
            ("self.crew.filter(c, c != '')", "dyn"),
            ("'a' in self.crew || 'a' in self.labels", "bool"),
            ("self.built < timestamp('2026-01-01T00:00:00Z') + duration('1h')", "bool"),
            ("self.any.x + 1 > 3 && self.any", "bool"),
            ("self.name == null", "bool"),
            ("quantity(self.name).isGreaterThan(quantity('1'))", "dyn"),
            ("self.decks[0].decks.map(d, d.name)", "dyn"),
            ("cel.bind(x, self.length, x + 'a')", "dyn"),
        ] {
            assert_eq!(found(expression), wanted, "{expression}");
        }
    }

    #[test]
    fn what_cannot_be_is_said_in_upstreams_words() {
        for (expression, wanted) in [
            ("self.length + 'a'", "found no matching overload for '_+_' applied to '(int, string)'"),
            ("self.length == 'a'", "found no matching overload for '_==_' applied to '(int, string)'"),
            ("self.length == 1.0", "found no matching overload for '_==_' applied to '(int, double)'"),
            ("self.crew < self.crew", "found no matching overload for '_<_' applied to '(list(string), list(string))'"),
            ("!self.length", "found no matching overload for '!_' applied to '(int)'"),
            ("self.length && true", "found no matching overload for '_&&_' applied to '(int, bool)'"),
            ("self.length.startsWith('a')", "found no matching overload for 'startsWith' applied to 'int.(string)'"),
            ("size(self.length) > 1", "found no matching overload for 'size' applied to '(int)'"),
            ("1 in self.crew", "found no matching overload for '@in' applied to '(int, list(string))'"),
            ("self.crew.all(c, c > 1)", "found no matching overload for '_>_' applied to '(string, int)'"),
            ("self.decks.all(d, d.sails > 1)", "undefined field 'sails'"),
            ("self.name.first == ''", "type 'string' does not support field selection"),
            (
                "self.length.all(x, x)",
                "expression of type 'int' cannot be range of a comprehension (must be list, map, or dynamic)",
            ),
        ] {
            assert_eq!(found(expression), wanted, "{expression}");
        }
    }
}
