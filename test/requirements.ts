/**
 * The 70 statements of the protocol reference, section 6, and what becomes of each here. One that passes is cited by the
 * tests that show it, `(§6.<number>)` at the end of their names; `requirements.md` is made of both.
 */

export type Status =
  | { readonly kind: 'pass'; readonly note?: string }
  | { readonly kind: 'open'; readonly issue: string }
  | { readonly kind: 'not applicable'; readonly why: string }

export interface Requirement {
  readonly id: number
  readonly says: string
  readonly status: Status
}

const pass: Status = { kind: 'pass' }
const passSoFar = (note: string): Status => ({ kind: 'pass', note })
const questions: Status = { kind: 'open', issue: 'a later issue, questions to the client' }

/** By section, in the order of the reference: what it says, and its status. */
const sections: Readonly<Record<string, readonly (readonly [number, string, Status])[]>> = {
  Transparency: [
    [1, 'Unknown members pass at every depth, both ways, between all pairs of eras', pass],
    [2, 'An unknown content type passes', pass],
    [3, 'structuredContent passes unchanged, for 2026 also when it is no object', pass],
    [4, 'traceparent, tracestate and baggage in _meta pass', pass],
    [5, 'Numbers keep their value, as far as JSON numbers have one', pass],
    [6, 'No envelope key reaches a server of 2025', pass],
    [7, 'Every request to a server of 2026 has version and capabilities in _meta, as its headers say', pass],
    [8, 'Every result to 2026 has a resultType; 2025 gets no member that we added', pass],
    [9, 'A task passes where both sides declared tasks, and is never provoked elsewhere', pass]
  ],
  'Routing and names': [
    [10, 'The same configuration gives the same names in the same order, after a restart and elsewhere', pass],
    [11, 'Names that contain __ come back as they were', pass],
    [12, 'Names that are too long are cut in one way only, and can be called', pass],
    [13, 'A tool that two servers have can be called on both', pass],
    [14, 'A URI on two servers: the first has it bare, the other under an alias, across restarts', pass],
    [15, 'A resource_link to a URI nobody lists can be read', pass],
    [16, '_meta.ui.resourceUri of a tool can be read', pass],
    [17, 'The bare name of a tool of an app works when it is unique and fails when it is not', pass],
    [18, 'A hostile URI template cannot hold up routing', pass],
    [19, 'Completion of prompts and templates reaches the right server', pass],
    [20, 'An empty nextCursor of a server is followed', pass],
    [21, 'A cursor that is none of ours is -32602', pass],
    [22, 'Walking all pages gives everything once', pass]
  ],
  Authorization: [
    [23, 'What is denied is byte for byte unknown', pass],
    [24, 'The policy is asked on every request, in old sessions too', pass],
    [25, 'No key: 401 with a bare challenge; a bad key: with invalid_token', pass],
    [26, 'resource_metadata is named only where it is served', pass],
    [27, "Another key's session is 404 on POST, GET and DELETE", pass],
    [28, "Another key's requestState or taskId is -32602", passSoFar('for tasks; requestState comes with questions')],
    [29, 'A seal that was tampered with is refused in the same words', pass],
    [30, 'A seal that has expired is refused', pass],
    [31, 'Authorization and cookies of a client never reach a server', pass],
    [32, 'A bad Origin or Host is 403 before the key is looked at; no Origin is fine', pass],
    [33, "A server's 401 never becomes a client's 401", pass],
    [34, 'list_changed is not sent to a key whose view did not change', pass]
  ],
  'HTTP, modern': [
    [35, 'Headers that do not mirror the body are 400 with -32020, base64 decoded first', pass],
    [36, 'An unsupported version is 400 with -32022 and what is supported', pass],
    [37, 'An envelope without capabilities is 400 with -32602', pass],
    [38, 'An unknown method is 404 with -32601', pass],
    [39, 'Mcp-Session-Id and Last-Event-ID are ignored, and none is made', pass],
    [40, 'No request is ever written to the stream of a client of 2026', pass],
    [41, 'JSON where nothing precedes the result, else a stream that proxies do not buffer', pass],
    [42, 'A notification is 202 without a body', pass],
    [43, 'Closing the stream cancels the call inside the server, over every transport and era', pass],
    [
      44,
      'subscriptions/listen: acknowledged first, every message marked, only what was asked for, a graceful end',
      pass
    ],
    [45, 'Mcp-Param-*: checked, made anew towards the server, invalid annotations hide the tool', pass],
    [46, 'No log message without a logLevel in the request', pass],
    [
      47,
      'input_required only for methods that may, and with what the client declared',
      passSoFar('none is let through')
    ]
  ],
  'HTTP, legacy': [
    [48, 'initialize agrees to the versions of 2025, else offers the newest of them, never 2026', pass],
    [49, 'No session is 400, an unknown or ended one 404', pass],
    [50, 'A missing version header is taken as negotiated, an unknown one is 400', pass],
    [51, 'A dropped POST stream does not cancel, notifications/cancelled does', pass],
    [52, "A server's request goes out on the stream of the call that caused it, once", questions],
    [53, 'A posted response is 202, also when nobody asked', pass],
    [54, 'Batches are accepted on 2025-03-26 only', pass],
    [55, 'Last-Event-ID replays that one stream of that one session', pass],
    [56, 'A session goes on after a restart of the gateway', pass],
    [57, 'HTTP+SSE: endpoint first, 202 for messages, a closed stream ends its calls', pass]
  ],
  'Multiplexing and limits': [
    [58, 'A hundred clients with equal ids and tokens over one connection never cross', pass],
    [59, "A question never reaches another key's client", questions],
    [60, 'Questions and log messages that belong to no call are refused or dropped, and counted', questions],
    [61, 'Parked calls expire, give their place back and answer the server', questions],
    [62, 'A retry with other arguments than the parked call is -32602', questions],
    [63, 'A retry is good for once', questions],
    [64, 'Progress keeps a call alive; the total limit ends it and tells the server', pass],
    [65, "One dead server neither delays nor empties the others' lists", pass],
    [66, '429 says when to come again, 413 comes before the body, limits hold', pass],
    [67, 'A crash answers the calls in flight, the server is started again, its list is back', pass],
    [68, 'A session the server has lost is renewed once for all, and what was refused is sent again once', pass],
    [
      69,
      "Parallel 401s of a server cause one refresh of the gateway's token",
      {
        kind: 'not applicable',
        why: 'what the gateway shows to servers are fixed headers of servers.yaml; nothing can be refreshed'
      }
    ],
    [70, 'Codes of our own lie outside of what is reserved; 2026 never sees -32002 or -32042', pass]
  ]
}

export const requirements: readonly Requirement[] = Object.values(sections).flatMap(rows =>
  rows.map(([id, says, status]) => ({ id, says, status }))
)

/** The page that lists them all. @param shownBy the test files that cite a statement. */
export function requirementsPage(shownBy: (id: number) => readonly string[]): string {
  const count = (kind: Status['kind']) => requirements.filter(({ status }) => status.kind === kind).length
  const lines = [
    '# The protocol, statement by statement',
    '',
    'Made by `test/requirements.test.ts` from `test/requirements.ts` and the names of the tests; after a change:',
    '`npx vitest run test/requirements.test.ts -u`. The numbers are those of the protocol reference, section 6.',
    '',
    `${count('pass')} pass, ${count('open')} are open, ${count('not applicable')} does not apply.`
  ]
  for (const [title, rows] of Object.entries(sections)) {
    lines.push('', `## ${title}`, '', '| § | What it says | Status | Shown by |', '|---|---|---|---|')
    for (const [id, says, status] of rows)
      lines.push(`| 6.${id} | ${says} | ${told(status)} | ${shownBy(id).join(', ')} |`)
  }
  return `${lines.join('\n')}\n`
}

function told(status: Status): string {
  switch (status.kind) {
    case 'pass':
      return status.note === undefined ? 'pass' : `pass (${status.note})`
    case 'open':
      return `open: ${status.issue}`
    case 'not applicable':
      return `not applicable: ${status.why}`
  }
}
