//! WebAssembly written byte by byte: what no assembler would make.

/// The header of a core module.
pub const MODULE: &[u8; 8] = b"\0asm\x01\0\0\0";
/// The header of a component.
pub const COMPONENT: &[u8; 8] = b"\0asm\x0d\0\x01\0";

/// Sections of a core module.
pub mod core {
    pub const CUSTOM: u8 = 0;
    pub const TYPE: u8 = 1;
    pub const IMPORT: u8 = 2;
    pub const FUNCTION: u8 = 3;
    pub const MEMORY: u8 = 5;
    pub const GLOBAL: u8 = 6;
    pub const EXPORT: u8 = 7;
    pub const CODE: u8 = 10;
    pub const DATA: u8 = 11;
}

/// Of a component: a nested one, types, imports.
pub const NESTED: u8 = 4;
pub const COMPONENT_TYPE: u8 = 7;
pub const COMPONENT_IMPORT: u8 = 10;

/// An unsigned LEB128.
pub fn leb(mut value: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        let low = (value & 0x7f) as u8;
        value >>= 7;
        if value == 0 {
            bytes.push(low);
            return bytes;
        }
        bytes.push(low | 0x80);
    }
}

/// Bytes with their length before them.
pub fn sized(bytes: &[u8]) -> Vec<u8> {
    [leb(bytes.len() as u64), bytes.to_vec()].concat()
}

pub fn section(id: u8, content: &[u8]) -> Vec<u8> {
    [vec![id], sized(content)].concat()
}

/// A section whose size is a lie.
pub fn lying_section(id: u8, size: u64, content: &[u8]) -> Vec<u8> {
    [vec![id], leb(size), content.to_vec()].concat()
}

/// `count` items, each made from its number, with the count before them.
pub fn vector(count: usize, item: impl Fn(usize) -> Vec<u8>) -> Vec<u8> {
    let mut bytes = leb(count as u64);
    for number in 0..count {
        bytes.extend(item(number));
    }
    bytes
}

pub fn module(sections: &[Vec<u8>]) -> Vec<u8> {
    [MODULE.to_vec(), sections.concat()].concat()
}

pub fn component(sections: &[Vec<u8>]) -> Vec<u8> {
    [COMPONENT.to_vec(), sections.concat()].concat()
}

pub fn custom(name: &[u8], content: &[u8]) -> Vec<u8> {
    section(core::CUSTOM, &[sized(name), content.to_vec()].concat())
}

/// Sections of a command whose `_start` has this body, without its end, and types and functions besides.
pub struct Command {
    pub types: Vec<u8>,
    pub functions: Vec<u8>,
    pub code: Vec<u8>,
    /// Between the functions and the exports: tables, memories, globals.
    pub middle: Vec<Vec<u8>>,
}

impl Command {
    /// One function of no parameters.
    pub fn of(body: &[u8]) -> Self {
        Self {
            types: vector(1, |_| vec![0x60, 0, 0]),
            functions: vector(1, |_| vec![0]),
            code: vector(1, |_| function(&[0], body)),
            middle: Vec::new(),
        }
    }

    pub fn bytes(&self) -> Vec<u8> {
        let export = [sized(b"_start"), vec![0, 0]].concat();
        let mut sections = vec![section(core::TYPE, &self.types), section(core::FUNCTION, &self.functions)];
        sections.extend(self.middle.clone());
        sections.push(section(core::EXPORT, &[vec![1], export].concat()));
        sections.push(section(core::CODE, &self.code));
        module(&sections)
    }
}

/// The body of a function with its locals; the end is added.
pub fn function(locals: &[u8], body: &[u8]) -> Vec<u8> {
    sized(&[locals, body, &[0x0b]].concat())
}

/// Components in components, `depth` of them.
pub fn nested(depth: usize) -> Vec<u8> {
    // The sizes from the innermost out; then the bytes from the outermost in.
    let mut sizes = vec![COMPONENT.len()];
    for level in 0..depth {
        let inner = sizes[level];
        sizes.push(COMPONENT.len() + 1 + leb(inner as u64).len() + inner);
    }
    let mut bytes = Vec::new();
    for inner in sizes.iter().rev().skip(1) {
        bytes.extend(COMPONENT);
        bytes.push(NESTED);
        bytes.extend(leb(*inner as u64));
    }
    bytes.extend(COMPONENT);
    bytes
}

/// Component types in component types, `depth` of them: nothing but their beginnings is needed.
pub fn nested_types(depth: usize) -> Vec<u8> {
    // A component type of one declaration, which is a type …
    let opening = [0x41, 1, 1];
    let closing = [0x41, 0];
    let content = [vec![1], opening.repeat(depth), closing.to_vec()].concat();
    component(&[section(COMPONENT_TYPE, &content)])
}
