// What the libraries take for granted and node 20 does not have (22 does). Import it before them.

Promise.withResolvers ??= function () {
  let resolve, reject
  const promise = new this((one, two) => { resolve = one; reject = two })
  return { promise, resolve, reject }
}
