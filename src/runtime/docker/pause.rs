//! The program of infrastructure containers: it waits, and so keeps a pod's namespaces in being.
//!
//! Written here in machine code, so that no registry is needed and nothing need be built elsewhere. It does
//! what the `pause` of Kubernetes does: asks the kernel to clear away children that end (it is the first
//! process of a pod that shares processes), then sleeps until it is killed.

/// Where the only segment is loaded.
const BASE: u64 = 0x40_0000;
const HEADERS: usize = 64 + 56;

/// The machine of an ELF file, and the code for it.
struct Target {
    machine: u16,
    code: &'static [u8],
}

const X86_64: Target = Target {
    machine: 62,
    code: &[
        // rt_sigaction(SIGCHLD, [rsp], NULL, 8), with a structure of SIG_IGN and nothing else on the stack.
        0x31, 0xc0, //                      xor eax, eax
        0x50, //                            push rax         mask
        0x50, //                            push rax         restorer
        0x50, //                            push rax         flags
        0x6a, 0x01, //                      push 1           SIG_IGN
        0x48, 0x89, 0xe6, //                mov rsi, rsp
        0x31, 0xd2, //                      xor edx, edx
        0x41, 0xba, 0x08, 0x00, 0x00, 0x00, // mov r10d, 8
        0xbf, 0x11, 0x00, 0x00, 0x00, //    mov edi, 17
        0xb8, 0x0d, 0x00, 0x00, 0x00, //    mov eax, 13
        0x0f, 0x05, //                      syscall
        // pause(), for ever.
        0xb8, 0x22, 0x00, 0x00, 0x00, //    mov eax, 34
        0x0f, 0x05, //                      syscall
        0xeb, 0xf7, //                      jmp -9
    ],
};

const AARCH64: Target = Target {
    machine: 183,
    code: &[
        // rt_sigaction(SIGCHLD, [sp], NULL, 8)
        0xff, 0x83, 0x00, 0xd1, // sub sp, sp, #32
        0x29, 0x00, 0x80, 0xd2, // mov x9, #1
        0xe9, 0x7f, 0x00, 0xa9, // stp x9, xzr, [sp]
        0xff, 0x7f, 0x01, 0xa9, // stp xzr, xzr, [sp, #16]
        0x20, 0x02, 0x80, 0xd2, // mov x0, #17
        0xe1, 0x03, 0x00, 0x91, // mov x1, sp
        0x02, 0x00, 0x80, 0xd2, // mov x2, #0
        0x03, 0x01, 0x80, 0xd2, // mov x3, #8
        0xc8, 0x10, 0x80, 0xd2, // mov x8, #134
        0x01, 0x00, 0x00, 0xd4, // svc #0
        // ppoll(NULL, 0, NULL, NULL), for ever.
        0x00, 0x00, 0x80, 0xd2, // mov x0, #0
        0x01, 0x00, 0x80, 0xd2, // mov x1, #0
        0x02, 0x00, 0x80, 0xd2, // mov x2, #0
        0x03, 0x00, 0x80, 0xd2, // mov x3, #0
        0x04, 0x00, 0x80, 0xd2, // mov x4, #0
        0x28, 0x09, 0x80, 0xd2, // mov x8, #73
        0x01, 0x00, 0x00, 0xd4, // svc #0
        0xf9, 0xff, 0xff, 0x17, // b -28
    ],
};

/// The program for an architecture as Docker calls it; `None` for one that it is not written for.
pub fn program(architecture: &str) -> Option<Vec<u8>> {
    match architecture {
        "amd64" | "x86_64" => Some(elf(&X86_64)),
        "arm64" | "aarch64" => Some(elf(&AARCH64)),
        _ => None,
    }
}

/// An archive of a root directory with the program as `/pause`.
pub fn root(architecture: &str) -> Option<Vec<u8>> {
    let program = program(architecture)?;
    let mut archive = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_ustar();
    header.set_size(program.len() as u64);
    header.set_mode(0o755);
    archive.append_data(&mut header, "pause", program.as_slice()).ok()?;
    archive.into_inner().ok()
}

/// An executable of one segment: the headers, then the code.
fn elf(target: &Target) -> Vec<u8> {
    let size = (HEADERS + target.code.len()) as u64;
    let mut file = Vec::with_capacity(HEADERS + target.code.len());
    // 64 bits, little-endian, version 1, System V.
    file.extend_from_slice(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
    let half = |file: &mut Vec<u8>, value: u16| file.extend_from_slice(&value.to_le_bytes());
    let word = |file: &mut Vec<u8>, value: u32| file.extend_from_slice(&value.to_le_bytes());
    let long = |file: &mut Vec<u8>, value: u64| file.extend_from_slice(&value.to_le_bytes());
    half(&mut file, 2); // an executable
    half(&mut file, target.machine);
    word(&mut file, 1);
    long(&mut file, BASE + HEADERS as u64); // the entry
    long(&mut file, 64); // the program header
    long(&mut file, 0);
    word(&mut file, 0);
    for value in [64, 56, 1, 64, 0, 0] {
        half(&mut file, value);
    }
    word(&mut file, 1); // loaded
    word(&mut file, 5); // read and execute
    for value in [0, BASE, BASE, size, size, 0x1_0000] {
        long(&mut file, value);
    }
    file.extend_from_slice(target.code);
    file
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;
    use std::os::unix::process::ExitStatusExt as _;

    use super::*;

    #[test]
    fn it_runs_on_this_machine_until_it_is_killed() {
        let Some(program) = program(std::env::consts::ARCH) else { return };
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("pause");
        std::fs::write(&path, program).expect("written");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("made executable");
        let mut child = std::process::Command::new(&path).spawn().expect("it is an executable");
        // It sleeps in its one call, having changed what SIGCHLD does.
        let status = format!("/proc/{}/status", child.id());
        let ignores = || {
            let text = std::fs::read_to_string(&status).expect("it lives");
            let mask = text.lines().find_map(|line| line.strip_prefix("SigIgn:")).expect("a mask").trim().to_owned();
            u64::from_str_radix(&mask, 16).expect("hexadecimal") & (1 << 16) != 0
        };
        while !ignores() {
            std::thread::yield_now();
        }
        assert!(child.try_wait().expect("asked").is_none());
        child.kill().expect("killed");
        assert_eq!(child.wait().expect("ended").signal(), Some(9));
    }

    #[test]
    fn it_is_written_for_two_architectures() {
        assert!(root("amd64").is_some_and(|tar| tar.len() % 512 == 0));
        assert!(program("arm64").is_some_and(|elf| elf.ends_with(&[0xf9, 0xff, 0xff, 0x17])));
        assert_eq!(program("s390x"), None);
    }
}
