//! PostgreSQL, MariaDB, Redis and MongoDB.

use crate::Need;
use crate::case::{
    Case, Expected, Running, as_nobody, command, fine, free_address, prepare, refused, serve, took, untimed,
};
use libtest_mimic::Failed;
use std::fs::File;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

const POSTGRES: Need = Need("postgres", "apt-get install postgresql");
pub(crate) const POSTGRESQL_NEEDS: &[Need] = &[POSTGRES, Need("psql", "apt-get install postgresql-client")];
pub(crate) const PGBENCH_NEEDS: &[Need] = &[POSTGRES, Need("pgbench", "apt-get install postgresql-contrib")];
pub(crate) const MARIADB_NEEDS: &[Need] =
    &[Need("mariadbd", "apt-get install mariadb-server"), Need("mariadb", "apt-get install mariadb-client")];
pub(crate) const REDIS_NEEDS: &[Need] =
    &[Need("redis-server", "apt-get install redis-server"), Need("redis-cli", "apt-get install redis-tools")];
pub(crate) const MONGODB_NEEDS: &[Need] =
    &[Need("ferretdb", "cargo xtask setup --servers"), Need("python3 pymongo", "pip install pymongo")];

/// Simple queries, one of them of several statements.
pub(crate) fn postgresql(folder: &Path) -> Result<Case, Failed> {
    let (server, address) = postgres(folder)?;
    let statements = [
        ("CREATE TABLE orders (id int PRIMARY KEY, name text);", fine("CREATE TABLE orders")),
        (
            "INSERT INTO orders SELECT n, 'name' FROM generate_series(1, 5000) n;",
            fine("INSERT orders SELECT generate_series"),
        ),
        ("SELECT * FROM orders WHERE id = 7;", fine("SELECT orders")),
        ("SELECT * FROM orders;", fine("SELECT orders")),
        ("SELECT * FROM nowhere;", refused("SELECT nowhere", "42P01")),
        ("INSERT INTO orders VALUES (7, 'again');", refused("INSERT orders", "23505")),
        ("SELECT pg_sleep(0.03);", fine("SELECT").lasting(30)),
        ("SELEC;", refused("postgresql", "42601")),
        ("UPDATE orders SET name = 'other' WHERE id < 100;", fine("UPDATE orders")),
        ("DELETE FROM orders;", fine("DELETE orders")),
    ];
    let script: String = statements.iter().map(|(statement, _)| format!("{statement}\n")).collect();
    std::fs::write(folder.join("script"), format!("\\timing on\n{script}"))?;
    let mut client = psql("psql", address)?;
    client.args(["--quiet", "--no-psqlrc", "--file"]).arg(folder.join("script"));
    let expected = statements.into_iter().map(|(_, expected)| expected).collect();
    Ok(Case { _server: server, address, client, expected, clock: psql_took, is_ordered: true, service: "postgres" })
}

/// What is prepared once and then executed, many times; and what goes in a pipeline.
pub(crate) fn pgbench(folder: &Path) -> Result<Case, Failed> {
    let (server, address) = postgres(folder)?;
    let mut create = psql("psql", address)?;
    create.args(["--command", "CREATE TABLE orders (id int PRIMARY KEY)"]);
    prepare(create)?;
    let script = "\\set id random(1, 99)\nSELECT * FROM orders WHERE id = :id;\nINSERT INTO orders VALUES (:id) ON CONFLICT DO NOTHING;\n";
    std::fs::write(folder.join("script"), script)?;
    let mut client = psql("pgbench", address)?;
    let transactions = 50;
    client.args(["--protocol=prepared", "--no-vacuum", "--transactions", &transactions.to_string(), "--file"]);
    client.arg(folder.join("script"));
    let expected = [fine("SELECT orders"), fine("INSERT orders")].repeat(transactions);
    Ok(Case { _server: server, address, client, expected, clock: untimed, is_ordered: true, service: "postgres" })
}

fn postgres(folder: &Path) -> Result<(Running, SocketAddr), Failed> {
    let address = free_address()?;
    let data = folder.join("data");
    let mut create = as_nobody(command("initdb", ["--auth=trust", "--username=test", "--no-sync", "-D"])?, folder)?;
    create.arg(&data);
    prepare(create)?;
    let port = address.port().to_string();
    let settings = ["-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories=", "-c", "fsync=off"];
    let mut server = as_nobody(command("postgres", settings)?, folder)?;
    server.args(["-p", &port, "-D"]).arg(&data);
    let server = serve(server, address)?;
    // It accepts connections before it takes statements.
    let mut ready = command("pg_isready", ["--host=127.0.0.1", "--port", &port, "--quiet"])?;
    while !ready.status()?.success() {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    Ok((server, address))
}

fn psql(name: &str, address: SocketAddr) -> Result<Command, Failed> {
    let port = address.port().to_string();
    let mut client = command(name, ["--host=127.0.0.1", "--username=test", "--port", &port])?;
    client.env("PGDATABASE", "postgres").env("PGSSLMODE", "disable").env("PGGSSENCMODE", "disable");
    Ok(client)
}

/// Lines `Time: <milliseconds> ms`.
fn psql_took(output: &str) -> Vec<f64> {
    let lines = output.lines().filter_map(|line| line.strip_prefix("Time: "));
    lines.filter_map(|line| line.split(' ').next()?.parse().ok()).collect()
}

/// Queries as text, and prepared ones.
pub(crate) fn mariadb(folder: &Path) -> Result<Case, Failed> {
    let address = free_address()?;
    let data = format!("--datadir={}", folder.join("data").display());
    prepare(command(
        "mariadb-install-db",
        [&data, "--user=root", "--skip-test-db", "--auth-root-authentication-method=normal"],
    )?)?;
    let at = |name: &str| format!("--{name}={}", folder.join(name).display());
    let port = format!("--port={}", address.port());
    let arguments =
        ["--no-defaults", "--user=root", "--bind-address=127.0.0.1", &port, &data, &at("socket"), &at("pid-file")];
    let server = serve(command("mariadbd", arguments)?, address)?;
    let statements: Vec<(&str, Expected)> = vec![
        ("CREATE DATABASE shop;", fine("CREATE DATABASE shop")),
        ("CREATE TABLE shop.orders (id int PRIMARY KEY, name varchar(20));", fine("CREATE TABLE shop.orders")),
        (
            "INSERT INTO shop.orders SELECT seq, 'name' FROM shop.seq_1_to_5000;",
            fine("INSERT shop.orders SELECT shop.seq_1_to_5000"),
        ),
        ("SELECT * FROM shop.orders;", fine("SELECT shop.orders")),
        ("SELECT * FROM shop.nowhere;", refused("SELECT shop.nowhere", "1146")),
        ("INSERT INTO shop.orders VALUES (7, 'again');", refused("INSERT shop.orders", "1062")),
        ("SELECT SLEEP(0.03);", fine("SELECT").lasting(30)),
        ("SELEC 1;", refused("mariadb", "1064")),
        ("DELETE FROM shop.orders;", fine("DELETE shop.orders")),
    ];
    let script: String = statements.iter().map(|(statement, _)| format!("{statement}\n")).collect();
    std::fs::write(folder.join("script"), script)?;
    let mut client =
        command("mariadb", ["--no-defaults", "--host=127.0.0.1", "--user=root", "--force", "--skip-ssl", &port])?;
    client.stdin(File::open(folder.join("script"))?);
    let expected = statements.into_iter().map(|(_, expected)| expected).collect();
    Ok(Case { _server: server, address, client, expected, clock: untimed, is_ordered: true, service: "mariadbd" })
}

/// One command after the other.
pub(crate) fn redis(folder: &Path) -> Result<Case, Failed> {
    let commands = [
        // The client's own, before all others.
        ("", fine("COMMAND DOCS")),
        ("SET a secret", fine("SET")),
        ("GET a", fine("GET")),
        ("GET nothing", fine("GET")),
        ("LPUSH a 1", refused("LPUSH", "WRONGTYPE")),
        ("NOSUCH a", refused("NOSUCH", "ERR")),
        ("BLPOP nothing 0.03", fine("BLPOP").lasting(30)),
        ("HSET h field value", fine("HSET")),
        ("CONFIG GET maxmemory", fine("CONFIG GET")),
        ("EVAL \"return {1,2,{3,'x'}}\" 0", fine("EVAL")),
        ("HELLO 3", fine("HELLO")),
        ("HGETALL h", fine("HGETALL")),
        ("INCR a", refused("INCR", "ERR")),
    ];
    let (server, address) = redis_server(folder)?;
    let script: String = commands.iter().map(|(command, _)| format!("{command}\n")).collect();
    std::fs::write(folder.join("script"), script)?;
    let mut client = command("redis-cli", ["-p", &address.port().to_string()])?;
    client.stdin(File::open(folder.join("script"))?);
    let expected = commands.into_iter().map(|(_, expected)| expected).collect();
    Ok(Case { _server: server, address, client, expected, clock: untimed, is_ordered: true, service: "redis-" })
}

/// All commands at once, and then the replies.
pub(crate) fn redis_pipeline(folder: &Path) -> Result<Case, Failed> {
    let commands = 60;
    let (server, address) = redis_server(folder)?;
    let script: String =
        (10..10 + commands).map(|number| format!("*3\r\n$3\r\nSET\r\n$2\r\n{number}\r\n$5\r\nvalue\r\n")).collect();
    std::fs::write(folder.join("script"), script)?;
    let mut client = command("redis-cli", ["-p", &address.port().to_string(), "--pipe"])?;
    client.stdin(File::open(folder.join("script"))?);
    // The client marks the end of what it sent.
    let expected = [vec![fine("SET"); commands], vec![fine("ECHO")]].concat();
    Ok(Case { _server: server, address, client, expected, clock: untimed, is_ordered: true, service: "redis-" })
}

fn redis_server(folder: &Path) -> Result<(Running, SocketAddr), Failed> {
    let address = free_address()?;
    let port = address.port().to_string();
    let mut server =
        command("redis-server", ["--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--port", &port])?;
    server.current_dir(folder);
    Ok((serve(server, address)?, address))
}

/// Commands of one client: what it asks to watch its server is no request of anybody's.
pub(crate) fn mongodb(folder: &Path) -> Result<Case, Failed> {
    const CLIENT: &str = include_str!("mongodb_client.py");
    let address = free_address()?;
    let mut server = command("ferretdb", [address.to_string()])?;
    server.arg(folder).current_dir(folder);
    let server = serve(server, address)?;
    let client = command("python3", ["-c", CLIENT, &address.port().to_string()])?;
    let mut expected = vec![fine("insert orders"), fine("insert orders"), refused("insert orders", "DuplicateKey")];
    expected.extend(["find orders", "getMore orders", "getMore orders"].map(fine));
    expected.extend([fine("find orders"); 10]);
    expected.extend(["update orders", "aggregate orders", "delete orders"].map(fine));
    expected.extend([refused("noSuchCommand shop", "CommandNotFound"), refused("find orders", "BadValue")]);
    // The client's own, which this server does not know.
    expected.extend([fine("drop orders"), refused("endSessions admin", "CommandNotFound")]);
    Ok(Case { _server: server, address, client, expected, clock: took, is_ordered: true, service: "ferretdb" })
}
