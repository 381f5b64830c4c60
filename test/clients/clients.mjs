/**
 * How each client is told of the gateway, as users are told to, and made to use it with no one at the keyboard.
 *
 * `command` is what its users type; `programs` are the places below node_modules where that program may lie; `audited` is
 * its name as the gateway hears it. `use` gets `sh(line, env)`, which runs a line in the client's HOME (`home` in `folder`,
 * empty at first) and gives what it printed, and returns what the client said in the end.
 */
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'

const platform = `${process.platform}-${process.arch}`
const prompt = 'Call the tool echo and tell me what it answers.'
const dummyKey = 'dummy'
const opencodeConfig = 'home/.config/opencode/opencode.jsonc'

export const clients = {
  claude: {
    title: 'Claude Code',
    command: 'claude',
    programs: [`@anthropic-ai/claude-code-${platform}/claude`],
    audited: 'claude-code',
    async use({ sh, gateway, model, folder }) {
      const env = {
        CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC: '1',
        CLAUDE_CODE_TMPDIR: join(folder, 'tmp'),
        DISABLE_AUTOUPDATER: '1',
        DISABLE_TELEMETRY: '1'
      }
      await sh(gateway.addLine, env)
      const list = await sh('claude mcp list', env)
      if (!list.includes(`switchboard: ${gateway.url} (HTTP) - ✔ Connected`))
        throw new Error(`"claude mcp list" does not say connected: ${list.trim()}`)
      const scripted = { ANTHROPIC_BASE_URL: model.url, ANTHROPIC_API_KEY: dummyKey }
      return sh(`claude -p "${prompt}" --allowedTools "mcp__switchboard__*"`, { ...env, ...scripted })
    }
  },

  codex: {
    title: 'Codex CLI',
    command: 'codex',
    programs: ['@openai/codex/bin/codex.js'],
    audited: 'codex-mcp-client',
    async use({ sh, gateway, model }) {
      await sh(`codex mcp add switchboard --url ${gateway.url} --bearer-token-env-var SWITCHBOARD_KEY`)
      const provider = `{name="Scripted",base_url="${model.url}/v1",env_key="OPENAI_API_KEY",wire_api="responses"}`
      const scripted = `-m scripted -c model_provider=scripted -c 'model_providers.scripted=${provider}'`
      const quiet = '-c analytics.enabled=false -c check_for_update_on_startup=false'
      const env = { SWITCHBOARD_KEY: gateway.key, OPENAI_API_KEY: dummyKey }
      return sh(`codex exec --skip-git-repo-check ${scripted} ${quiet} "${prompt}"`, env)
    }
  },

  gemini: {
    title: 'Gemini CLI',
    command: 'gemini',
    programs: ['@google/gemini-cli/bundle/gemini.js'],
    audited: 'gemini-cli-mcp-client',
    async use({ sh, gateway, model, folder }) {
      // With another address of the API it wants to be told that a key is what it logs in with.
      write(join(folder, 'project/.gemini/settings.json'), {
        security: { auth: { selectedType: 'gemini-api-key' } },
        privacy: { usageStatisticsEnabled: false },
        general: { enableAutoUpdate: false, enableAutoUpdateNotification: false }
      })
      const options = `--scope user --transport http -H "Authorization: Bearer ${gateway.key}"`
      await sh(`gemini mcp add ${options} switchboard ${gateway.url}`)
      const env = { GEMINI_CLI_TRUST_WORKSPACE: 'true', GOOGLE_GEMINI_BASE_URL: model.url, GEMINI_API_KEY: dummyKey }
      return sh(`gemini --approval-mode yolo -m gemini-2.5-flash -p "${prompt}"`, env)
    }
  },

  opencode: {
    title: 'opencode',
    command: 'opencode',
    programs: [`opencode-${platform}/bin/opencode`, `opencode-${platform}-baseline/bin/opencode`],
    audited: 'opencode',
    async use({ sh, gateway, model, folder }) {
      await sh(`opencode mcp add switchboard --url ${gateway.url} --header "Authorization=Bearer ${gateway.key}"`)
      const config = JSON.parse(readFileSync(join(folder, opencodeConfig), 'utf8'))
      config.mcp.switchboard.oauth = false
      write(join(folder, opencodeConfig), config)
      const scripted = {
        npm: '@ai-sdk/openai-compatible',
        name: 'Scripted',
        options: { baseURL: `${model.url}/v1`, apiKey: dummyKey },
        models: { scripted: { name: 'Scripted' } }
      }
      return sh(`opencode run -m scripted/scripted "${prompt}"`, {
        OPENCODE_CONFIG_CONTENT: JSON.stringify({ autoupdate: false, share: 'disabled', provider: { scripted } }),
        OPENCODE_DISABLE_AUTOUPDATE: '1',
        OPENCODE_DISABLE_MODELS_FETCH: '1',
        OPENCODE_DISABLE_LSP_DOWNLOAD: '1',
        OPENCODE_DISABLE_DEFAULT_PLUGINS: '1'
      })
    }
  },

  copilot: {
    title: 'Copilot CLI',
    command: 'copilot',
    programs: ['@github/copilot/npm-loader.js'],
    audited: 'copilot-cli',
    async use({ sh, gateway, model }) {
      const env = { COPILOT_OFFLINE: 'true', COPILOT_AUTO_UPDATE: 'false' }
      const options = `--transport http --header "Authorization: Bearer ${gateway.key}"`
      await sh(`copilot mcp add ${options} switchboard ${gateway.url}`, env)
      return sh(`copilot -p "${prompt}"`, {
        ...env,
        COPILOT_PROVIDER_BASE_URL: `${model.url}/v1`,
        COPILOT_PROVIDER_API_KEY: dummyKey,
        COPILOT_MODEL: 'scripted'
      })
    }
  },

  inspector: inspector(''),
  'inspector-modern': inspector('--protocol-era modern')
}

/** It needs no model: it is told to list and to call. */
function inspector(era) {
  return {
    title: 'MCP Inspector CLI',
    command: 'mcp-inspector',
    programs: ['@modelcontextprotocol/inspector/clients/launcher/build/index.js'],
    audited: 'inspector-cli',
    async use({ sh, gateway, model: { tool, args, seen } }) {
      const options = `--transport http --header "Authorization: Bearer ${gateway.key}" ${era}`
      const line = `mcp-inspector --cli --server-url ${gateway.url} ${options}`
      const { tools } = JSON.parse(await sh(`${line} --method tools/list`))
      seen.called = tools.find(({ name }) => name.endsWith(tool))?.name
      const call = `--method tools/call --tool-name ${seen.called} --tool-args-json '${JSON.stringify(args)}'`
      const answer = await sh(`${line} ${call}`)
      seen.result = JSON.stringify(JSON.parse(answer).content)
      return answer
    }
  }
}

function write(path, content) {
  mkdirSync(dirname(path), { recursive: true })
  writeFileSync(path, JSON.stringify(content, undefined, 2))
}
