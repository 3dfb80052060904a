//! Help texts that are longer than a few lines.

pub const DATA_DIR: &str = "The gateway's data directory; with --database-url, the directory of its secrets \
                        [default: $METAMCP_DATA_DIR, else $XDG_DATA_HOME/metamcp, else ~/.local/share/metamcp]";
pub const DATABASE_URL: &str = "postgres://…: the gateway's database, if it is not in the data directory \
                            [default: $DATABASE_URL, read in the same way as by the gateway]";

pub const HEADER_FILE: &str = "A file of headers, one on each line as in 'Authorization: Bearer …', for secrets; - reads \
                           standard input. All headers are sealed in the database";

pub const SET_KEY: &str = "\
What is not named stays as it is. A list replaces the old one. Tokens issued for the key before are revoked, and its open
streams end; clients that send the key itself notice nothing.

  keyadm keys set 4fT0sQbW91Lk --rate 10/50 --expires 30d
  keyadm keys set 4fT0sQbW91Lk --endpoint team,servers/github
  keyadm keys set 4fT0sQbW91Lk --calls-per-day 10000 --bytes-per-month 20GiB
  keyadm keys set 4fT0sQbW91Lk --calls-per-day none --unset endpoint,expires";

pub const REKEY: &str = "\
With secrets.toml in the data directory:
  keyadm rekey --add-version    then restart every gateway: they seal with the new version and open both
  keyadm rekey                  while they run; if it is interrupted, run it again
  keyadm rekey --drop-old       then restart every gateway: what is sealed with the old version is lost

With ENCRYPTION_KEY in the environment: set ENCRYPTION_KEY=\"2:<new>,1:<old>\" for gateways and keyadm (the first version
seals, all of them open), run `keyadm rekey`, and remove the old version at the next restart. With several replicas,
restart all of them with \"1:<old>,2:<new>\" first, so that each can open the session ids of the others.

Exit codes: 0 everything is sealed with the newest version, 65 some values were left, since no version opens them.";

pub const IMPORT: &str = "\
Here --database-url names MetaMCP's database, which is only read. Active keys keep working, on the endpoints they had
access to; replace them one by one with `keyadm keys rotate`. A second run imports what is new.

  keyadm import-metamcp --database-url postgres://metamcp@old/metamcp --data-dir /var/lib/metamcp --dry-run

Exit codes: 0 done, 65 some items could not be imported (all others were).";

pub const IMPORT_SERVERS: &str = "\
Variables (${...}) are not expanded: write the actual values. Disabled entries and entries of an unsupported kind are
skipped and listed. A program without a directory (npx) is looked up in PATH, and its absolute path is stored.

Exit codes: 0 done, 65 some servers could not be added (all others were).";

pub const ADD_ENDPOINT: &str = "\
  keyadm endpoints add team --server github,jira
  echo '{\"servers\": [{\"server\": \"github\", \"allow\": [\"get_*\"]}]}' | keyadm endpoints add readers --file -";

pub const EDIT_ENDPOINT: &str = "\
--server replaces the list; servers that remain keep their filters and overrides. --file takes a JSON merge patch (RFC
7396), as PATCH in the REST API does: null removes a member, and a list replaces the old one.

  keyadm endpoints edit team --server github,jira,wiki
  keyadm endpoints show team --json    shows what there is to change";

pub const EDIT_SERVER: &str = "\
--header and --header-file set the headers that they name; all others stay.

--file takes a JSON merge patch (RFC 7396), as PATCH in the REST API does: null removes a member, and a list replaces the
old one. Header values and variables that are shown as (sealed) stay if they are sent back so, or left out.

  keyadm servers edit github --url https://api.example.com/v2/mcp
  keyadm servers edit github --url https://other.example/mcp --header-file headers.txt
  echo '{\"call_timeout\": \"5m\", \"headers\": {\"x-team\": null}}' | keyadm servers edit github --file -
  keyadm servers show github --json    shows what there is to change";

pub const APPROVE: &str = "\
Tool definitions are approved when a gateway first lists them. If the server has `changed_tools = \"quarantine\"`, a tool
that changes later is neither listed nor called until it is approved here. Read its new definition at /servers/NAME/mcp,
then approve it:
  keyadm servers approve github --show
  keyadm servers approve github --tool create_issue --digest 5e88…";

pub const EXAMPLES: &str = "\
Examples:
  keyadm keys create --name laptop
  keyadm keys create --name ci --endpoint team --tools 'github__*' --rate 10/50 --expires 30d --json
  keyadm keys rotate 4fT0sQbW91Lk --grace 24h
  keyadm keys inactivate 4fT0sQbW91Lk
  keyadm servers add github --url https://api.example.com/mcp --header-file headers.txt
  keyadm servers import ~/.cursor/mcp.json --dry-run
  keyadm audit --object key --since 7d
  keyadm doctor

Environment, also read from ./.env as the gateway does: DATABASE_URL METAMCP_DATA_DIR ENCRYPTION_KEY.
Secrets: ENCRYPTION_KEY, else the file secrets.toml in the data directory.
Exit codes: 0 done, 1 doctor found problems, 64 invalid usage, 65 invalid data (no such key, wrong
ENCRYPTION_KEY), 69 store not available, 74 cannot write the result.";
