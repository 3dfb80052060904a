# Sourced by wrk and h2load beside it: one Modern tools/call as `headers` (an array) and `body`.
#
# URL TOOL are the first two arguments of those scripts. The key is taken from METAMCP_KEY, or from KEY_FILE.
url=$1 tool=${2:-demo__echo}
key=${METAMCP_KEY-}
[[ -z ${KEY_FILE-} ]] || key=$(head -n 1 "$KEY_FILE") || exit 64

headers=(
    'Content-Type: application/json'
    'Accept: application/json, text/event-stream'
    'MCP-Protocol-Version: 2026-07-28'
    'Mcp-Method: tools/call'
    "Mcp-Name: $tool"
)
[[ -z $key ]] || headers+=("Authorization: Bearer $key")
body='{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"'$tool'","arguments":{"text":"hello"},"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}}}}'

# Neither of them looks at answers, so one is looked at before.
curl_headers=()
for header in "${headers[@]}"; do
    curl_headers+=("header = \"$header\"")
done
# By its standard input, where other users do not see the key.
answer=$(printf '%s\n' "${curl_headers[@]}" | curl -sS --max-time 10 --config - --data "$body" "$url") || exit 69
if [[ $answer != *'"id":1'*hello* ]]; then
    echo "$url does not answer a call of $tool rightly: ${answer:0:300}" >&2
    exit 69
fi
