//! Runs to completion: counts the primes below its first argument, then ends with the exit code that
//! its second argument names (0 if none).

fn main() {
    let mut args = std::env::args().skip(1);
    let below: usize = args.next().and_then(|arg| arg.parse().ok()).unwrap_or(1000);
    let code: i32 = args.next().and_then(|arg| arg.parse().ok()).unwrap_or(0);
    println!("{} primes below {below}", primes(below));
    if code != 0 {
        eprintln!("ending with exit code {code}, as asked");
    }
    std::process::exit(code);
}

/// The sieve of Eratosthenes.
fn primes(below: usize) -> usize {
    let mut composite = vec![false; below];
    let mut count = 0;
    for n in 2..below {
        if !composite[n] {
            count += 1;
            for multiple in (n * n..below).step_by(n) {
                composite[multiple] = true;
            }
        }
    }
    count
}
