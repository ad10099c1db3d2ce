// A provider of sign-ins for tests: `oidc-provider`, with people and clients of a file, on the loopback
// interface. It writes `ready` when it listens, and ends with its standard input.
//
// node provider.mjs MODULES CONFIGURATION.json
// The file: port, issuer, certificate, key, algorithm, client, programs (more clients), people.
// POST /test/rotate: other keys, and none of the old ones. POST /test/people: other people, as JSON.

import { createPrivateKey, generateKeyPairSync } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { createServer } from 'node:https';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';

const [modules, file] = process.argv.slice(2);
const entry = join(modules, 'oidc-provider', 'lib', 'index.js');
const { default: Provider } = await import(pathToFileURL(entry).href);
const settings = JSON.parse(readFileSync(file, 'utf8'));
let people = settings.people;
let rotations = 0;

const kinds = {
  RS256: ['rsa', { modulusLength: 2048 }],
  PS256: ['rsa', { modulusLength: 2048 }],
  ES256: ['ec', { namedCurve: 'P-256' }],
  EdDSA: ['ed25519', {}],
};

// As text in between: Node.js 20 can stop for ever when it exports the very object that it has made. It locks
// the key, collects garbage, and the job that made the key waits for the lock.
function jwk([kind, options]) {
  const { privateKey } = generateKeyPairSync(kind, {
    ...options,
    publicKeyEncoding: { type: 'spki', format: 'pem' },
    privateKeyEncoding: { type: 'pkcs8', format: 'pem' },
  });
  return createPrivateKey(privateKey).export({ format: 'jwk' });
}

function provider() {
  rotations += 1;
  const key = { ...jwk(kinds[settings.algorithm]), use: 'sig', kid: `key-${rotations}` };
  return new Provider(settings.issuer, {
    jwks: { keys: [key] },
    clients: [settings.client, ...settings.programs].map((client) => ({
      id_token_signed_response_alg: settings.algorithm,
      ...client,
    })),
    scopes: ['openid', 'email', 'groups', 'profile'],
    claims: {
      openid: ['sub', 'sid'],
      email: ['email', 'email_verified'],
      groups: ['groups'],
      profile: ['preferred_username'],
    },
    cookies: { keys: ['of a test'] },
    // Without the dispatcher that keeps calls away from this machine.
    fetch: (url, { dispatcher: _, ...options }) => fetch(url, options),
    pkce: { required: () => true },
    enabledJWA: { idTokenSigningAlgValues: Object.keys(kinds) },
    features: {
      backchannelLogout: { enabled: true },
      clientCredentials: { enabled: true },
      devInteractions: { enabled: true },
      resourceIndicators: {
        enabled: true,
        getResourceServerInfo: (_, audience) => ({
          scope: '',
          audience,
          accessTokenFormat: 'jwt',
          jwt: { sign: { alg: settings.algorithm } },
        }),
      },
      rpInitiatedLogout: { enabled: true },
    },
    async findAccount(_, id) {
      return { accountId: id, claims: async () => ({ sub: id, ...people[id] }) };
    },
  });
}

let answer = provider().callback();
const tls = { cert: readFileSync(settings.certificate), key: readFileSync(settings.key) };
const server = createServer(tls, async (request, response) => {
  if (request.method !== 'POST' || !request.url.startsWith('/test/')) {
    answer(request, response);
    return;
  }
  let body = '';
  for await (const part of request) body += part;
  if (request.url === '/test/rotate') answer = provider().callback();
  if (request.url === '/test/people') people = JSON.parse(body);
  response.end();
});
server.listen(settings.port, '127.0.0.1', () => console.log('ready'));
// Who started it reads no further than `ready`.
process.stdout.on('error', () => {});
process.stdin.on('end', () => process.exit()).resume();
