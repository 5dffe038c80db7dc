//! What is found and what is left alone, by tables; and that neither length nor luck makes a text expensive or breaks it.
//!
//! In the tables `~` is taken out before use: no line of this file looks like somebody's key.

use super::*;
use std::collections::BTreeMap;
use std::fmt::Write;

fn masking() -> Config {
    Config { emails: Action::Mask, ibans: Action::Mask, ..Config::default() }
}

fn redactor(config: &Config) -> Redactor {
    Redactor::new(config)
}

fn check(table: &[(&str, &str)]) {
    let redactor = redactor(&masking());
    let mut wrong = String::new();
    for (text, expected) in table {
        let text = text.replace('~', "");
        let found = redactor.text(&text);
        if found != *expected {
            let _ = writeln!(wrong, "  {text}\n  expected {expected}\n  found    {found}\n");
        }
        assert_eq!(redactor.text(expected), *expected, "what was redacted is redacted again");
    }
    assert!(wrong.is_empty(), "\n{wrong}");
}

fn left_alone(texts: &[&str]) {
    let redactor = redactor(&masking());
    let changed: Vec<_> = texts
        .iter()
        .map(|text| text.replace('~', ""))
        .filter_map(|text| match redactor.text(&text) {
            Cow::Borrowed(_) => None,
            Cow::Owned(redacted) => Some(format!("{text} -> {redacted}")),
        })
        .collect();
    assert!(changed.is_empty(), "\n{}", changed.join("\n"));
}

#[test]
fn the_name_in_a_mask_gives_nothing_away() {
    check(&[("token=abcdefgh :1795165eb211c803", "token=[redacted:token] :1795165eb211c803")]);
}

#[test]
fn cards_of_every_scheme_are_found_however_they_are_grouped() {
    check(&[
        ("4111111111111111", "[redacted:card]"),
        ("paid with 4111 1111 1111 1111 12/28", "paid with [redacted:card] 12/28"),
        ("paid with 4111-1111-1111-1111.", "paid with [redacted:card]."),
        ("card=5555555555554444&cvv=123", "card=[redacted:card]&cvv=[redacted:password]"),
        ("{\"number\":\"2223003122003222\"}", "{\"number\":\"[redacted:card]\"}"),
        ("amex 378282246310005", "amex [redacted:card]"),
        ("amex 3782 822463 10005 ok", "amex [redacted:card] ok"),
        ("discover 6011111111111117", "discover [redacted:card]"),
        ("diners 30569309025904", "diners [redacted:card]"),
        ("diners 3056 930902 5904", "diners [redacted:card]"),
        ("jcb 3530111333300000", "jcb [redacted:card]"),
        ("union pay 6200000000000005", "union pay [redacted:card]"),
        ("maestro 6759649826438453", "maestro [redacted:card]"),
        ("visa 4222222222222", "visa [redacted:card]"),
        ("mir 2201382000000013", "mir [redacted:card]"),
        ("4111111111111111 5555555555554444", "[redacted:card] [redacted:card]"),
        ("1 4111111111111111 2", "1 [redacted:card] 2"),
        ("2026-11-20 4111 1111 1111 1111", "2026-11-20 [redacted:card]"),
        ("<pan>4012888888881881</pan>", "<pan>[redacted:card]</pan>"),
    ]);
}

#[test]
fn numbers_that_are_no_cards_stay() {
    left_alone(&[
        "order 4111111111111112 failed",
        "order 1234567890123456",
        "2026-11-20 12:13:00.123456 +0000",
        "20261120121300123",
        "ts=1700000040000 us=1700000040000000 ns=1700000040000000000",
        "phone +4915112345678, +1 415 555 2671, 0049 151 1234 5678",
        "trace 4bf92f3577b34da6a3ce929d0e0e4736 span 00f067aa0ba902b7",
        "4111111111111111a",
        "blk_4012888888881881 blk_-4012888888881881",
        "a4111111111111111",
        "0.4111111111111111",
        "12.4111111111111111",
        "0x4111111111111111",
        "id 123e4567-e89b-12d3-a456-426614174000",
        "id 00004111-1111-1111-1111-111111111111",
        "41111111111111114111111111111111",
        "4111  1111  1111  1111",
        "4111 1111-1111 1111",
        "10.0.0.1 192.168.100.200 255.255.255.255",
        "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        "8f14e45fceea167a5a36dedd4bea2543",
        "1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16",
        "- - - - - - - - - - - - - - - -",
        "081109 203615 148 INFO dfs.DataNode$PacketResponder: PacketResponder 1 for block blk_38865049064139660 terminating",
    ]);
}

#[test]
fn account_numbers_are_found_by_country_and_check_digits() {
    check(&[
        ("DE89370400440532013000", "[redacted:iban]"),
        ("to DE89 3704 0044 0532 0130 00, thanks", "to [redacted:iban], thanks"),
        ("GB82WEST12345698765432", "[redacted:iban]"),
        ("iban: GB82 WEST 1234 5698 7654 32", "iban: [redacted:iban]"),
        ("FR1420041010050500013M02606", "[redacted:iban]"),
        ("NO9386011117947", "[redacted:iban]"),
        ("MT84MALT011000012345MTLCAST001S", "[redacted:iban]"),
        ("INFO TRANSFER NL91ABNA0417164300 DONE", "INFO TRANSFER [redacted:iban] DONE"),
        ("CH9300762011623852957", "[redacted:iban]"),
    ]);
    left_alone(&[
        "DE89370400440532013001",
        "XX89370400440532013000",
        "DE8937040044053201300",
        "ADE89370400440532013000",
        "DE89370400440532013000X",
        "GB82 WEST 1234 5698 7654 33",
        "AKIA and US12 AND DE99 IN CAPITALS",
        "CONNECTION RESET BY PEER ON PORT 8080",
    ]);
}

#[test]
fn the_lengths_of_account_numbers_are_sorted_by_country() {
    // Published examples, one for each length that tables get wrong.
    for iban in ["RU0204452560040702810412345678901", "LC14BOSL123456789012345678901234", "SE4550000000058398257466"] {
        assert_eq!(redactor(&masking()).text(iban), "[redacted:iban]", "{iban}");
    }
}

#[test]
fn mail_addresses_are_found() {
    check(&[
        ("joe@example.com", "[redacted:email]"),
        ("From: Joe <joe.doe+tag@mail.example.co.uk>,", "From: Joe <[redacted:email]>,"),
        ("user=joe@example.com.", "user=[redacted:email]."),
        ("mailto:joe@example.com?subject=x", "mailto:[redacted:email]?subject=x"),
        ("GET /u?mail=joe%40example.com&x=1", "GET /u?mail=[redacted:email]&x=1"),
        ("jörg@exämple.de grüßt", "[redacted:email] grüßt"),
        ("a@b.de,c@d.org;e@f.net", "[redacted:email],[redacted:email];[redacted:email]"),
        ("Failed password for joe@example.com from 10.0.0.1", "Failed password for [redacted:email] from 10.0.0.1"),
        ("https://x.example/?m=joe@example.com", "https://x.example/?m=[redacted:email]"),
        ("\"joe@example.com\"", "\"[redacted:email]\""),
    ]);
    left_alone(&[
        "user@host",
        "user@1000.service",
        "getty@tty1.service started, postgresql@15-main.service too",
        "git@github.com:org/repo.git",
        "lodash@4.17.21 react@18",
        "npm install @types/node@20.1.0",
        "image@sha256:e3b0c44298fc1c14",
        "com.acme.Shop@1b2c3d4e",
        "@Override @ @@ a@ @b.com",
        "https://user@host.example.com/path",
        "ssh://git@gitlab.example.com:22/x.git",
        "joe at example.com",
    ]);
}

#[test]
fn passwords_in_urls_are_found_and_the_rest_of_the_url_stays() {
    check(&[
        ("postgres://app:hunter2@db:5432/shop", "postgres://app:[redacted:password]@db:5432/shop"),
        ("https://joe:pw@example.com/a?b=c", "https://joe:[redacted:password]@example.com/a?b=c"),
        ("redis://:hunter2@cache:6379/0", "redis://:[redacted:password]@cache:6379/0"),
        ("amqp://u:p@ss@host/vhost", "amqp://u:[redacted:password]@host/vhost"),
        ("mongodb://u:pa/ss@host/db", "mongodb://u:[redacted:password]@host/db"),
        ("url=\"mysql://root:x1@h\" ok", "url=\"mysql://root:[redacted:password]@h\" ok"),
        ("a http://u:p1@h b http://v:p2@i c", "a http://u:[redacted:password]@h b http://v:[redacted:password]@i c"),
        ("proxy socks5://u:päss@h:1080", "proxy socks5://u:[redacted:password]@h:1080"),
    ]);
    left_alone(&[
        "http://example.com:8080/a@b",
        "http://[::1]:8080/x",
        "https://user:@host/",
        "http://user:***@host/",
        "tcp://10.0.0.1:80 -> tcp://10.0.0.2:81",
        "see http://example.com: it works",
    ]);
}

#[test]
fn keys_of_clouds_and_vendors_are_found_by_how_they_begin() {
    let keys = [
        "AKIA~IOSFODNN7EXAMPLE",
        "ASIA~IOSFODNN7EXAMPLE",
        "AIza~SyA1234567890abcdefghijklmnopqrstuv",
        "GOCSPX-~1234567890abcdefghijklmnop",
        "ya29.~a0AfH6SMBx1234567890abcdef",
        "ghp_~1234567890abcdefghijklmnopqrstuvwxyz",
        "gho_~16C7e42F292c6912E7710c838347Ae178B4a",
        "ghs_~16C7e42F292c6912E7710c838347Ae178B4a",
        "github_pat_~11ABCDEFG0abcdefghijkl_mnopqrstuvwxyz0123456789",
        "glpat-~abcdefghij0123456789",
        "glrt-~abcdefghij0123456789",
        "xoxb-~123456789012-1234567890123-abcdefghijklmnopqrstuvwx",
        "xoxp-~123456789012-1234567890123-abcdef",
        "xapp-~1-A0123456789-1234567890123-abcdef",
        "sk_live_~4eC39HqLyjWDarjtT1zdp7dc",
        "rk_live_~4eC39HqLyjWDarjtT1zdp7dc",
        "whsec_~1234567890abcdefghijklmnop",
        "npm_~1234567890abcdefghijklmnopqrstuvwxyz",
        "pypi-AgE~IcHlwaS5vcmcCJDAwMDAwMDAwLTAwMDAtMDAwMC0wMDAw",
        "SG.~abcdefghijklmnop123456.abcdefghijklmnopqrstuvwxyz0123456789abcdefg",
        "sk-~proj-1234567890abcdefghijklmnop",
        "sk-~ant-api03-1234567890abcdefghij-klmnopqrstuv_wxyz",
        "sk-~1234567890abcdef1234567890abcdef",
        "dop_v1_~0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
        "hf_~abcdefghijklmnopqrstuvwxyzABCDEFGH",
        "hvs.~CAESIJ1234567890abcdefghij",
        "olly_~0123456789ab_0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
        "dapi~0123456789abcdef0123456789abcdef",
        "NRAK-~0123456789ABCDEFGHIJKLMNOPQ",
        "glsa_~0123456789abcdefghijklmnopqrstuv_0123abcd",
        "shpat_~0123456789abcdef0123456789abcdef",
        "AGE-SECRET-KEY-1~QQPQQPQQPQQPQQPQQPQQPQQPQQPQQPQQPQQPQQPQQPQQPQQPQQPQQPQQ4Z",
    ];
    let redactor = redactor(&masking());
    for key in keys {
        let key = key.replace('~', "");
        for (before, after) in [("", ""), ("using ", " now"), ("a=\"", "\","), ("(", ")"), ("\n", ".")] {
            let expected = format!("{before}[redacted:key]{after}");
            assert_eq!(redactor.text(&format!("{before}{key}{after}")), expected, "{key}");
        }
        assert_eq!(redactor.text(&format!("x{key}")), format!("x{key}"), "within a word");
    }
    left_alone(&[
        "AKIA~IOSFODNN7EXAMPL",
        "AKIA~IOSFODNN7EXAMPLEX",
        "task-1234567890abcdefghijklmnop",
        "sk-fading-circle-container-animated",
        "sk-short1",
        "npm_config_registry",
        "npm_lifecycle_event_of_the_whole_package",
        "hf_transfer_of_the_whole_model_is_slow",
        "SG.eu-central",
        "pypi-mirror",
        "ASIA/Tokyo ASIAN",
        "ghp_",
        "dapi",
        "https://hooks.slack.com/",
    ]);
    check(&[(
        "https://hooks.slack.com/services/~T00000000/B00000000/XXXXXXXXXXXXXXXXXXXXXXXX",
        "https://[redacted:key]",
    )]);
}

#[test]
fn the_secret_of_an_aws_key_is_found_beside_its_id() {
    check(&[
        ("AKIA~IOSFODNN7EXAMPLE wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", "[redacted:key] [redacted:key]"),
        ("aws_secret_access_key = wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", "aws_secret_access_key = [redacted:key]"),
    ]);
    left_alone(&["commit wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", "da39a3ee5e6b4b0d3255bfef95601890afd80709"]);
}

#[test]
fn bearer_tokens_and_authorizations_go_and_the_scheme_stays() {
    let jwt = "eyJ~hbGciOiJIUzI1NiJ9.eyJ~zdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U";
    check(&[
        (jwt, "[redacted:token]"),
        (&format!("got {jwt}, thanks"), "got [redacted:token], thanks"),
        (&format!("/cb?t={jwt}&x=1"), "/cb?t=[redacted:token]&x=1"),
        (&format!("Authorization: Bearer {jwt}"), "Authorization: Bearer [redacted:token]"),
        ("authorization: bearer abcdef0123456789", "authorization: bearer [redacted:token]"),
        ("Authorization: Basic dXNlcjpwYXNz", "Authorization: Basic [redacted:token]"),
        ("-H 'Authorization: Basic dXNlcjpwYXNz' -v", "-H 'Authorization: Basic [redacted:token]' -v"),
        ("{\"Authorization\":\"Basic dXNlcjpwYXNz\"}", "{\"Authorization\":\"Basic [redacted:token]\"}"),
        ("{\"authorization\":[\"Basic dXNlcjpwYXNz\"]}", "{\"authorization\":[\"Basic [redacted:token]\"]}"),
        ("Authorization: abc", "Authorization: [redacted:token]"),
        (
            "Authorization: Digest username=\"joe\", response=\"6629fae49393a05397450978507c4ef1\"",
            "Authorization: Digest [redacted:token]",
        ),
        (
            "Authorization: AWS4-HMAC-SHA256 Credential=A/2026/s3, SignedHeaders=host, Signature=fe5f80",
            "Authorization: AWS4-HMAC-SHA256 [redacted:token]",
        ),
        ("proxy-authorization: Basic dXNlcjpwYXNz\nhost: x", "proxy-authorization: Basic [redacted:token]\nhost: x"),
        ("sent Bearer abcdef0123456789.", "sent Bearer [redacted:token]."),
        ("Cookie: sid=31d4d96e407aad42; theme=dark", "Cookie: [redacted:token]"),
        ("Set-Cookie: sid=31d4d96e407aad42; Path=/\nhost: x", "Set-Cookie: [redacted:token]\nhost: x"),
        (
            "https://a.blob.core.windows.net/c?sv=2024&sig=abc%2Bdef%3D&se=1",
            "https://a.blob.core.windows.net/c?sv=2024&sig=[redacted:token]&se=1",
        ),
        ("/x?X-Amz-Signature=fe5f80&X-Amz-Expires=60", "/x?X-Amz-Signature=[redacted:token]&X-Amz-Expires=60"),
    ]);
    left_alone(&[
        "bearer token is missing",
        "Bearer authentication failed",
        "The bearer of this letter",
        "eyJ",
        "eyJhbGci.x",
        "authorization failed for user joe",
        "no cookie set",
        "authorization: none",
    ]);
}

#[test]
fn private_keys_go_as_a_whole_even_when_they_are_cut_off() {
    let body = "MIIEpAIBAAKCAQEAu5mE2mCyP3w8vYtLq0nT5cYx1oVnY7vOe6V3b1d2c4f5a6b7";
    let begin = "-----BEGIN~ RSA PRIVATE KEY-----";
    let end = "-----END~ RSA PRIVATE KEY-----";
    check(&[
        (&format!("{begin}\n{body}\n{body}\n{end}"), "[redacted:private_key]"),
        (&format!("key: {begin}\n{body}\n{end}\ndone"), "key: [redacted:private_key]\ndone"),
        (&format!("{{\"k\":\"{begin}\\n{body}\\n{end}\\n\"}}"), "{\"k\":\"[redacted:private_key]\\n\"}"),
        (&format!("{begin}\n{body}"), "[redacted:private_key]"),
        (&format!("{{\"k\":\"{begin}\\n{body}\",\"x\":1}}"), "{\"k\":\"[redacted:private_key]\",\"x\":1}"),
        (&format!("-----BEGIN~ PRIVATE KEY-----{body}-----END~ PRIVATE KEY----- x"), "[redacted:private_key] x"),
        (&format!("-----BEGIN~ OPENSSH PRIVATE KEY-----\n{body}"), "[redacted:private_key]"),
        (&format!("-----BEGIN~ PGP PRIVATE KEY BLOCK-----\n\n{body}"), "[redacted:private_key]"),
        (
            &format!("\"private_key\": \"-----BEGIN~ PRIVATE KEY-----\\n{body}\\n-----END~ PRIVATE KEY-----\\n\""),
            "\"private_key\": \"[redacted:key]\"",
        ),
    ]);
    left_alone(&[
        &format!("-----BEGIN CERTIFICATE-----\n{body}\n-----END CERTIFICATE-----"),
        &format!("-----BEGIN PUBLIC KEY-----\n{body}\n-----END PUBLIC KEY-----"),
        "-----BEGIN",
        "no PRIVATE KEY here",
    ]);
}

#[test]
fn values_after_the_name_of_a_secret_go() {
    check(&[
        ("password=hunter2", "password=[redacted:password]"),
        ("pwd=x", "pwd=[redacted:password]"),
        ("db_password = \"a b c\" port=1", "db_password = \"[redacted:password]\" port=1"),
        ("passwd: hunter2", "passwd: [redacted:password]"),
        ("Password: hunter2, user: joe", "Password: [redacted:password], user: joe"),
        ("PGPASSWORD=hunter2 psql -h db", "PGPASSWORD=[redacted:password] psql -h db"),
        ("{\"password\":\"hunter2\",\"a\":1}", "{\"password\":\"[redacted:password]\",\"a\":1}"),
        ("{\"password\" : \"a\\\"b\",\"a\":1}", "{\"password\" : \"[redacted:password]\",\"a\":1}"),
        ("\"{\\\"password\\\":\\\"hunter2\\\"}\"", "\"{\\\"password\\\":\\\"[redacted:password]\\\"}\""),
        ("{\"pin\":1,\"password\":123456}", "{\"pin\":1,\"password\":\"[redacted:password]\"}"),
        ("{'secret': 'x', 'y': 1}", "{'secret': '[redacted:password]', 'y': 1}"),
        ("--password=hunter2 -v", "--password=[redacted:password] -v"),
        ("--password hunter2 -v", "--password [redacted:password] -v"),
        ("--api-key abc --x", "--api-key [redacted:key] --x"),
        ("GET /?token=abc&x=1", "GET /?token=[redacted:token]&x=1"),
        ("access_token=abc;refresh_token=def", "access_token=[redacted:token];refresh_token=[redacted:token]"),
        ("password=a&b x=1", "password=[redacted:password] x=1"),
        ("password=a&b&x=1", "password=[redacted:password]&x=1"),
        ("/?token=abc&amp;x=1", "/?token=[redacted:token]&amp;x=1"),
        ("PASSWORD=abc&&make", "PASSWORD=[redacted:password]&&make"),
        ("token=Token{value=abc}", "token=[redacted:token]}"),
        ("token=abc@1b2c3d4e", "token=[redacted:token]"),
        ("password=Hunter{2", "password=[redacted:password]"),
        ("X-Api-Key: abc123", "X-Api-Key: [redacted:key]"),
        ("API key: abc123", "API key: [redacted:key]"),
        ("client_secret=abc", "client_secret=[redacted:password]"),
        ("clientSecret => 'abc'", "clientSecret => '[redacted:password]'"),
        (":password=>\"abc\"", ":password=>\"[redacted:password]\""),
        ("<password>hunter 2</password>", "<password>[redacted:password]</password>"),
        ("ALTER USER joe PASSWORD 'abc'", "ALTER USER joe PASSWORD '[redacted:password]'"),
        ("CREATE USER j IDENTIFIED BY 'abc'", "CREATE USER j IDENTIFIED BY '[redacted:password]'"),
        ("AccountName=a;AccountKey=abc+/==;X=y", "AccountName=a;AccountKey=[redacted:key];X=y"),
        ("Server=db;Password=abc;", "Server=db;Password=[redacted:password];"),
        ("password%3Dhunter2", "password%3D[redacted:password]"),
        ("user{name=joe, password=abc}", "user{name=joe, password=[redacted:password]}"),
        ("password=[abc]", "password=[[redacted:password]]"),
        ("password=\"abc", "password=\"[redacted:password]"),
        ("password1=abc password2=abd", "password1=[redacted:password] password2=[redacted:password]"),
        ("secret=${x} token=abc", "secret=${x} token=[redacted:token]"),
        ("line\npassword: hünter\nnext", "line\npassword: [redacted:password]\nnext"),
        ("pwd \"abcdef\"", "pwd \"[redacted:password]\""),
        // Names that begin as keys do.
        ("hf_token=abc", "hf_token=[redacted:token]"),
        ("npm_token=abc", "npm_token=[redacted:token]"),
        ("olly_api_key: abc1", "olly_api_key: [redacted:key]"),
    ]);
}

#[test]
fn words_about_secrets_are_no_secrets() {
    left_alone(&[
        "Failed password for invalid user admin from 10.0.0.1 port 22 ssh2",
        "password",
        "password: ",
        "password=",
        "password=null password=true password=*** password=\"\"",
        "invalid password: too short",
        "error fetching secret: not found",
        "could not refresh token: context deadline exceeded",
        "token: timeout",
        "Unexpected token } in JSON at position 4",
        "unexpected token: '}'",
        "max_tokens=4096 tokens: 12 token_count=3",
        "password_changed=true password_reset_url=/x",
        "nextPageToken=abc continuation_token=def",
        "primary_key=12 key=abc keyboard: us monkey=1",
        "compass=n bypass=1 passed=12",
        "author=joe authority: x",
        "std::Token::new",
        "PWD=/srv/joe OLDPWD=/",
        "secretName: db-credentials-name",
        "password={{ vault_password }} secret=${SECRET}",
        "the key: a mystery",
        "tokenizer=bpe",
        "AppWindowToken{9f4ef63 token=Token{a64f992 ActivityRecord{de9231d u0 com.x/.Main t761}}}",
        "Bad activity token: android.os.BinderProxy@2bd79ce",
        "token=<nil> token=null",
        "design: good",
        "pam_unix(sshd:auth): authentication failure; logname= uid=0 euid=0 tty=ssh ruser= rhost=10.0.0.1",
    ]);
}

#[test]
fn passwords_in_flags_of_one_letter_are_known_by_the_program() {
    check(&[
        ("mysql -u root -psecret shop", "mysql -u root -p[redacted:password] shop"),
        ("/usr/bin/mysqldump -p'secret' shop", "/usr/bin/mysqldump -p'[redacted:password]' shop"),
        ("sshpass -p secret ssh host", "sshpass -p [redacted:password] ssh host"),
        ("redis-cli -h c -a secret ping", "redis-cli -h c -a [redacted:password] ping"),
        ("curl -s -u joe:secret https://x", "curl -s -u joe:[redacted:password] https://x"),
        ("curl --user joe:secret https://x", "curl --user joe:[redacted:password] https://x"),
    ]);
    for length in 480..520 {
        let url = format!("curl https://{} -u joe:", "a".repeat(length));
        let text = redactor(&masking()).text(&format!("{url}ünsägbär1 -v")).into_owned();
        assert!(text == format!("{url}[redacted:password] -v") || length > 494, "{text}");
        assert!(text.ends_with(" -v"), "{text}");
    }
    left_alone(&["mysql -p", "mysqld --port=3306", "curl -u joe https://x", "nginx -p /srv", "redis-cli -a"]);
}

#[test]
fn overlapping_finds_go_once_and_whole() {
    check(&[
        ("password=joe@example.com", "password=[redacted:password]"),
        ("postgres://u:p@example.com@db.example.com/x", "postgres://u:[redacted:password]@db.example.com/x"),
        ("token=4111111111111111", "token=[redacted:token]"),
    ]);
}

#[test]
fn equal_values_get_equal_hashes_and_the_key_decides_which() {
    let hashing = Config { cards: Action::Hash, ..Config::default() };
    let text = |key: &str, text: &str| redactor(&hashing.clone().keyed(key)).text(text).into_owned();
    let hash = text("a", "4111111111111111");
    assert_eq!(text("a", "x 4111111111111111 y"), format!("x {hash} y"));
    assert_eq!(hash.len(), "[card:0123456789abcdef]".len());
    assert_ne!(text("b", "4111111111111111"), hash);
    assert_ne!(text("a", "5555555555554444"), hash);
    assert_eq!(text("a", &hash), hash, "a hash is not hashed again");
}

#[test]
fn what_is_off_stays_and_hides_nothing_else() {
    let off = Config { emails: Action::Off, passwords: Action::Off, ..masking() };
    let text =
        redactor(&off).text("joe@example.com password=AKIA~IOSFODNN7EXAMPLE".replace('~', "").as_str()).into_owned();
    assert_eq!(text, "joe@example.com password=[redacted:key]");
    let none = Config { enabled: false, ..masking() };
    assert!(matches!(redactor(&none).text("4111111111111111"), Cow::Borrowed(_)));
}

#[test]
fn own_rules_redact_what_they_find_or_what_their_group_holds() {
    let text = "[[rules]]\nname = 'customer'\npattern = 'K-[0-9]+'\n[[rules]]\nname = 'room'\npattern = 'room (\\w+)'\naction = 'hash'\n[[rules]]\nname = 'unused'\npattern = 'zzz'\naction = 'off'";
    let redactor = redactor(&toml::from_str(text).unwrap());
    let found = redactor.text("K-17 in room blue, zzz").into_owned();
    let (start, end) = found.split_once("[room:").unwrap();
    assert_eq!(start, "[redacted:customer] in room ");
    assert!(end.ends_with("], zzz"), "{found}");
    assert_eq!(redactor.stats(), BTreeMap::from([("customer".to_owned(), 1), ("room".to_owned(), 1)]));
}

#[test]
fn where_an_own_rule_finds_nothing_nothing_is_put() {
    let rules =
        "[[rules]]\nname = 'customer'\npattern = 'customer-([0-9]*)'\n[[rules]]\nname = 'edge'\npattern = '\\b'";
    let redactor = redactor(&toml::from_str(rules).unwrap());
    assert_eq!(redactor.text("customer-, customer-17"), "customer-, customer-[redacted:customer]");
}

#[test]
fn what_was_redacted_is_counted_by_kind() {
    let redactor = redactor(&masking());
    redactor.text("4111111111111111 joe@example.com joe@example.com");
    redactor.text("nothing");
    assert_eq!(redactor.stats(), BTreeMap::from([("card".to_owned(), 1), ("email".to_owned(), 2)]));
}

/// Texts made of pieces that begin something and never end it.
fn hostile(bytes: usize) -> impl Iterator<Item = String> {
    let pieces = [
        "4",
        "4 ",
        "4444-",
        "4111 ",
        "@",
        "a@",
        "@a.",
        "a@b.",
        "eyJ",
        "eyJ.",
        "eyJa-",
        "eyJaaaaaaaa.",
        "://",
        "://a:",
        "://@",
        "http://a:b/",
        "password",
        "password=",
        "password=\"",
        "password='\\",
        "password.",
        "\\",
        "\\\"",
        "\"",
        "pass \\\"",
        "-----BEGIN",
        "-----BEGIN PRIVATE KEY-----",
        "-----BEGIN PRIVATE KEY-----'",
        "-----END",
        "mysql ",
        " mysql -",
        "/mysql/",
        "key",
        "api key ",
        "key=[",
        "token: a ",
        "Authorization: Digest ",
        "cookie=",
        "cookie:",
        "Bearer ",
        "bearerbearer",
        "sk-",
        "sk-a-",
        "sk-1-",
        "AKIA",
        "DE22",
        "DE22 ",
        "AAAA",
        "%40",
        "a%40",
        "x.%40",
        "<pwd>",
        "IDENTIFIED BY ",
        "ghp_",
        "ghp_a",
        "ä",
        "[redacted:",
        "--token ",
        "password=${",
        "pwd=/",
        "authorization: abc ",
        "Authorization: Bearer [redacted:token] ",
        "olly_",
        "a%40b.",
        "gho_A",
    ];
    pieces.into_iter().map(move |piece| piece.repeat(bytes / piece.len()))
}

#[test]
fn a_secret_is_found_at_the_end_of_any_text_however_long() {
    // Were the time not linear, this would take hours.
    let off = Action::Off;
    let mail_alone =
        Config { cards: off, ibans: off, tokens: off, keys: off, private_keys: off, passwords: off, ..masking() };
    for redactor in [masking(), mail_alone].map(|config| redactor(&config)) {
        for text in hostile(64 << 10) {
            let redacted = redactor.text(&format!("{text} K4NARY=1 \n mail joe@canary.example \n")).into_owned();
            assert!(!redacted.contains("joe@canary"), "{}", &redacted[..40]);
        }
    }
}

#[test]
fn a_key_is_found_within_a_longer_name() {
    let key = ["ghp", "_0123456789abcdefghijABCDEFGHIJ012345"].concat();
    let jwt = "eyJhbGciOiJI.eyJzdWIiOiIx.c2lnbmF0dXJl";
    check(&[
        (&format!("GET session_token_{key}"), "GET session_token_[redacted:key]"),
        (&format!("cookie-{jwt}"), "cookie-[redacted:token]"),
        (&format!("hf_a-{jwt}"), "hf_a-[redacted:token]"),
        ("password-----BEGIN PRIVATE KEY-----MII", "password[redacted:private_key]"),
    ]);
}

/// Texts of pieces that begin secrets, of whole ones, and of what lies between.
pub(crate) fn for_many_texts(check: impl Fn(&str)) {
    use proptest::prelude::*;
    let whole = [
        "4111 1111 1111 1111",
        "DE89370400440532013000",
        "joe@a.de",
        "joe%40a.de",
        "u://a:b@c",
        "Bearer 0123456789abcdef",
        "bearer abcdefghijklmnopqrstuvwxyz",
        "IDENTIFIED BY 'x'",
        "mysql -px",
        "redis-cli -a x",
        "sshpass -px",
        "mariadb -px",
        "PWD 'x'",
        "key=x",
        "--token x",
        "<jwt>x",
        "sig=x",
        "PHPSESSID=x",
    ];
    let between = ["é", "日", " ", "\n", "=", ":", "a", "Z", "1", "-", ".", "\"", "the ", "2026-11-20 "];
    let pieces: Vec<String> = hostile(30).chain(whole.into_iter().chain(between).map(str::to_owned)).collect();
    let texts = prop::collection::vec(prop::sample::select(pieces), 0..12).prop_map(|pieces| pieces.concat());
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    runner
        .run(&texts, |text| {
            check(&text);
            Ok(())
        })
        .unwrap();
}

#[test]
fn a_text_that_is_ruled_out_at_a_glance_holds_nothing() {
    let redactor = redactor(&masking());
    let redaction = redactor.redaction.as_ref().unwrap();
    for_many_texts(|text| {
        // Every part of it, as far as texts are judged by a glance.
        for start in text.char_indices().map(|(start, _)| start) {
            for length in 1..70 {
                let Some(part) = text.get(start..start + length) else { continue };
                let may = words::may(part.as_bytes());
                let mut finds = Vec::new();
                if !may.hold_word {
                    redaction.words.find(part, &|_| true, &mut finds);
                }
                if !may.hold_address {
                    address::find(part, &|_| true, &mut finds);
                }
                if !may.hold_number {
                    number::find(part.as_bytes(), &|_| true, &mut finds);
                }
                assert_eq!(finds, Vec::new(), "{part}");
            }
        }
    });
}

#[test]
fn every_text_is_cut_only_between_characters() {
    let redactor = redactor(&masking());
    for_many_texts(|text| {
        let mut finds = Vec::new();
        redactor.redaction.as_ref().unwrap().find(text, &mut finds);
        for find in finds {
            assert!(text.get(find.start..find.end).is_some_and(|found| !found.is_empty()), "{find:?} in {text}");
        }
    });
}
